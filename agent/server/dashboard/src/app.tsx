/** The frame around the pages: who this is, where to go, which database. */

import { useCallback, useEffect, useState } from "preact/hooks";
import { ApiError, explained, get, request, whenUnauthorized, within } from "./api";
import { type Session, SharedContext, go, link, setClock, useLoaded, useRoute } from "./hooks";
import { Conflicts } from "./pages/conflicts";
import { Documents } from "./pages/documents";
import { Gateways } from "./pages/gateways";
import { Hooks } from "./pages/hooks";
import { Login } from "./pages/login";
import { Overview } from "./pages/overview";
import { Sensors } from "./pages/sensors";
import { Dialog, Failure, Loading, Name } from "./parts";
import type { Status } from "./status";
import { type Theme, setTheme, theme } from "./theme";

const PAGES = [
  { name: "overview", title: "Overview", show: Overview, icon: "M3 12h4l3-8 4 16 3-8h4" },
  { name: "sensors", title: "Sensors", show: Sensors, icon: "M4 20V4M4 20h16M7 15l4-5 3 3 5-7" },
  {
    name: "documents",
    title: "Documents",
    show: Documents,
    icon: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  },
  {
    name: "conflicts",
    title: "Conflicts",
    show: Conflicts,
    icon: "M6 4v16M6 12c8 0 12-2 12-8M18 4l-3 3M18 4l3 3",
  },
  {
    name: "gateways",
    title: "Gateways",
    show: Gateways,
    icon: "M4 13h16v7H4zM8 17h.01M12 17h4M9 9a4 4 0 0 1 6 0M6 6a8 8 0 0 1 12 0",
  },
] as const;
/** Not among the others: the overview leads there. */
const ASIDE = { name: "hooks", title: "Hooks", show: Hooks } as const;
const STATUS_EVERY = 2000;
/** On a slow line, or where the agent has much to do; a connection that is dead has no other end. */
const STATUS_TIMEOUT = 20_000;
const WITHOUT_DATABASES = ["overview", "gateways", "hooks"];

export function App() {
  const [session, setSession] = useState<Session>();
  const [error, setError] = useState<unknown>();
  const load = useCallback(async () => {
    try {
      setSession(await currentSession());
      setError(undefined);
    } catch (problem) {
      setError(problem);
    }
  }, []);
  useEffect(() => {
    whenUnauthorized(() => void load());
    void load();
  }, [load]);
  if (!session) return <main>{error === undefined ? <Loading /> : <Failure error={error} />}</main>;
  const nobody = session.name === null && !session.roles.includes("_admin");
  if (nobody) return <Login onDone={load} />;
  return <Frame key={session.name} session={session} onSession={load} />;
}

async function currentSession(): Promise<Session> {
  try {
    const { userCtx } = await get<{ userCtx: { name: string | null; roles: string[] } }>(
      "/_session",
    );
    return { ...userCtx, databases: true };
  } catch (error) {
    // A bridge has no databases, so nobody logs in; it listens on loopback only.
    if (error instanceof ApiError && error.status === 404) {
      return { name: null, roles: ["_admin"], databases: false };
    }
    throw error;
  }
}

async function currentStatus(signal: AbortSignal): Promise<Status> {
  const asked = performance.now();
  const status = await get<Status>("/_status", within(STATUS_TIMEOUT, signal));
  setClock(status, performance.now() - asked);
  return status;
}

function Frame({ session, onSession }: { session: Session; onSession: () => Promise<void> }) {
  const route = useRoute();
  const [help, setHelp] = useState(false);
  const status = useLoaded("status", currentStatus, STATUS_EVERY);
  const { dbs, db, loading } = useDatabases(session, status.value, route.query["db"]);
  const pages = PAGES.filter(({ name }) => session.databases || WITHOUT_DATABASES.includes(name));
  const page = [...pages, ASIDE].find(({ name }) => name === route.page) ?? PAGES[0];
  const writes = !session.roles.includes("_reader") || session.roles.includes("_admin");
  useShortcuts(db, () => setHelp(true));
  useEffect(() => {
    document.title = `${page.title} · ${status.value?.name ?? "Edge agent"}`;
  }, [page.title, status.value?.name]);
  const conflicts = status.value?.conflicts?.present ?? status.value?.database?.conflicts ?? 0;
  const Page = page.show;
  return (
    <SharedContext.Provider value={{ session, status, db, dbs, writes }}>
      <a class="skip" href="#main" onClick={toMain}>
        Skip to the content
      </a>
      <header class="top">
        <div class="brand">
          <span class="mark" aria-hidden="true" />
          <Name>{status.value?.name ?? "Edge agent"}</Name>
        </div>
        <nav aria-label="Pages">
          {pages.map(({ name, title, icon }) => (
            <a
              key={name}
              href={link(name, { db: route.query["db"] })}
              aria-current={name === page.name ? "page" : undefined}
            >
              <svg viewBox="0 0 24 24" aria-hidden="true">
                <path d={icon} />
              </svg>
              <span>{title}</span>
              {name === "conflicts" && conflicts > 0 && (
                <b class="badge" title={`${conflicts} documents with conflicts`}>
                  {conflicts > 999 ? "999+" : conflicts}
                </b>
              )}
            </a>
          ))}
        </nav>
        <div class="tools">
          <DatabaseChoice page={page.name} dbs={dbs} db={db} />
          <ThemeChoice />
          {session.name !== null && <LogOut name={session.name} onDone={onSession} />}
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        <h1>{page.title}</h1>
        {status.value && status.error !== undefined && (
          <div class="notice error" role="alert">
            {explained(status.error)} What is shown here may be old.
          </div>
        )}
        {status.loading || loading ? <Loading /> : <Page route={route} />}
      </main>
      <footer>
        {status.value && <span>edge-sync-agent {status.value.version}</span>}
        <button type="button" class="link" onClick={() => setHelp(true)}>
          Keyboard shortcuts
        </button>
      </footer>
      {help && <Shortcuts onClose={() => setHelp(false)} />}
    </SharedContext.Provider>
  );
}

/** A plain link would change the page's own address, which says where we are. */
function toMain(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

// --- databases -----------------------------------------------------------------------

function useDatabases(session: Session, status: Status | undefined, wanted: string | undefined) {
  // Only administrators are told.
  const told = session.databases && session.roles.includes("_admin");
  const names = useLoaded(told ? "dbs" : null, (signal) => get<string[]>("/_all_dbs", signal));
  const own = status?.database?.name;
  const dbs =
    names.value?.filter((name) => !name.startsWith("_")) ?? (own === undefined ? null : [own]);
  return { dbs, db: wanted ?? own ?? dbs?.[0] ?? null, loading: names.loading };
}

function DatabaseChoice({
  page,
  dbs,
  db,
}: {
  page: string;
  dbs: readonly string[] | null;
  db: string | null;
}) {
  if (WITHOUT_DATABASES.includes(page)) return null;
  if (dbs === null) {
    const choose = (event: Event) => {
      const name = (event.currentTarget as HTMLInputElement).value.trim();
      if (name) go(page, { db: name });
    };
    return (
      <label class="database">
        <span>Database</span>
        <input type="text" value={db ?? ""} spellcheck={false} onChange={choose} />
      </label>
    );
  }
  if (dbs.length < 2 && (db === null || db === dbs[0])) return null;
  const all = db === null || dbs.includes(db) ? dbs : [db, ...dbs];
  return (
    <label class="database">
      <span>Database</span>
      <select value={db ?? ""} onChange={(event) => go(page, { db: event.currentTarget.value })}>
        {all.map((name) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}

// --- tools ---------------------------------------------------------------------------

const THEMES: readonly Theme[] = ["system", "light", "dark"];
const THEME_ICONS: Record<Theme, string> = {
  system: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  light:
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5 19 19M19 5l-1.5 1.5M6.5 17.5 5 19",
  dark: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10z",
};

function ThemeChoice() {
  const [current, setCurrent] = useState(theme);
  const next = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length] ?? "system";
  const click = () => {
    setTheme(next);
    setCurrent(next);
  };
  return (
    <button
      type="button"
      class="icon"
      onClick={click}
      aria-label={`Colours: ${current}; change to ${next}`}
      title={`Colours: ${current}`}
    >
      <svg viewBox="0 0 24 24" aria-hidden="true">
        <path d={THEME_ICONS[current]} />
      </svg>
    </button>
  );
}

function LogOut({ name, onDone }: { name: string; onDone: () => Promise<void> }) {
  const click = async () => {
    await request("DELETE", "/_session");
    await onDone();
  };
  return (
    <button type="button" class="quiet" onClick={click} title={`Logged in as ${name}`}>
      <span class="user">
        <Name>{name}</Name> ·{" "}
      </span>
      Log out
    </button>
  );
}

// --- keys ----------------------------------------------------------------------------

function useShortcuts(db: string | null, onHelp: () => void): void {
  useEffect(() => {
    let before = "";
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const typing = /^(input|textarea|select)$/i.test(target.tagName);
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      const page = PAGES.find(({ name }) => name[0] === event.key);
      if (event.key === "?") onHelp();
      else if (before === "g" && page) go(page.name, db === null ? {} : { db });
      else if (event.key === "/") {
        const search = document.querySelector<HTMLInputElement>("main input[type=search]");
        if (search) event.preventDefault();
        search?.focus();
      }
      before = event.key;
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [db]);
}

function Shortcuts({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose}>
      <dl class="keys">
        {PAGES.map(({ name, title }) => (
          <div key={name}>
            <dt>
              <kbd>g</kbd> <kbd>{name[0]}</kbd>
            </dt>
            <dd>{title}</dd>
          </div>
        ))}
        <div>
          <dt>
            <kbd>/</kbd>
          </dt>
          <dd>Search on this page</dd>
        </div>
        <div>
          <dt>
            <kbd>?</kbd>
          </dt>
          <dd>This list</dd>
        </div>
      </dl>
      <button type="button" onClick={onClose}>
        Close
      </button>
    </Dialog>
  );
}
