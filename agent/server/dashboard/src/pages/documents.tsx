/** The documents of a database: by id, or by a query. */

import { useState } from "preact/hooks";
import { inDb, request } from "../api";
import { Document } from "../document";
import { NewDocument } from "../editor";
import { type Route, go, link, useLoaded, useShared } from "../hooks";
import { line, parse } from "../json";
import { Empty, Failure, Loading, Name, NoDatabase } from "../parts";

const PAGE = 50;
const LAST = "\u{10ffff}"; // after whatever an id goes on with
const EVERY = 5000;

interface Found {
  readonly ids: readonly string[];
  /** What the next page begins with; null at the end. */
  readonly next: string | null;
}

export function Documents({ route }: { route: Route }) {
  const { db, writes } = useShared();
  const [mode, setMode] = useState<"id" | "query">("id");
  const id = route.query["id"];
  if (db === null) return <NoDatabase />;
  const isNew = route.query["new"] === "1";
  return (
    <div class={`split ${id !== undefined || isNew ? "chosen" : ""}`}>
      <div class="beside stack">
        <div class="row spread">
          <div class="segments" role="group" aria-label="How documents are found">
            <button type="button" aria-pressed={mode === "id"} onClick={() => setMode("id")}>
              By id
            </button>
            <button type="button" aria-pressed={mode === "query"} onClick={() => setMode("query")}>
              Query
            </button>
          </div>
          {writes && (
            <a class="button" href={link("documents", { db, new: "1" })}>
              New
            </a>
          )}
        </div>
        {mode === "id" ? <ById key={db} db={db} id={id} /> : <ByQuery key={db} db={db} id={id} />}
      </div>
      <div class="stack">
        {(id !== undefined || isNew) && (
          <a class="back" href={link("documents", { db })}>
            All documents
          </a>
        )}
        {isNew && writes && <NewDocument db={db} />}
        {!isNew && id !== undefined && (
          <Document key={`${db} ${id}`} db={db} id={id} rev={route.query["rev"]} />
        )}
        {!isNew && id === undefined && (
          <div class="wide-only">
            <Empty title="Choose a document">
              Its members, its revisions and its attachments appear here.
            </Empty>
          </div>
        )}
      </div>
    </div>
  );
}

// --- by id ---------------------------------------------------------------------------

function ById({ db, id }: { db: string; id: string | undefined }) {
  const [prefix, setPrefix] = useState("");
  const [starts, setStarts] = useState<readonly string[]>([]);
  const start = starts.at(-1) ?? prefix;
  const load = async (signal: AbortSignal): Promise<Found> => {
    const path = inDb(db, ["_all_docs"], {
      start_key: JSON.stringify(start),
      ...(prefix ? { end_key: JSON.stringify(prefix + LAST) } : {}),
      limit: PAGE + 1,
    });
    const { rows } = await request<{ rows: { id: string }[] }>("GET", path, { signal });
    const ids = rows.map((row) => row.id);
    return { ids: ids.slice(0, PAGE), next: ids[PAGE] ?? null };
  };
  const { value, error } = useLoaded(`${db} ${prefix} ${start}`, load, EVERY);
  const search = (event: Event & { currentTarget: HTMLInputElement }) => {
    setPrefix(event.currentTarget.value);
    setStarts([]);
  };
  const open = (event: Event) => {
    event.preventDefault();
    if (prefix) go("documents", { db, id: prefix });
  };
  return (
    <>
      <form onSubmit={open}>
        <input
          type="search"
          class="wide"
          aria-label="Ids that begin with"
          placeholder="Ids that begin with …"
          value={prefix}
          spellcheck={false}
          onInput={search}
        />
      </form>
      {error !== undefined && <Failure error={error} />}
      {!value && error === undefined && <Loading />}
      {value && (
        <Ids
          db={db}
          found={value}
          chosen={id}
          first={starts.length === 0}
          onFirst={() => setStarts([])}
          onNext={(next) => setStarts([...starts, next])}
        />
      )}
    </>
  );
}

function Ids({
  db,
  found,
  chosen,
  first,
  onFirst,
  onNext,
}: {
  db: string;
  found: Found;
  chosen: string | undefined;
  first: boolean;
  onFirst: () => void;
  onNext: (next: string) => void;
}) {
  if (!found.ids.length) return <Empty title="No document is found" />;
  const { next } = found;
  return (
    <>
      <ul class="list card ids">
        {found.ids.map((id) => (
          <li key={id}>
            <a
              href={link("documents", { db, id })}
              aria-current={id === chosen ? "true" : undefined}
            >
              <Name code>{id}</Name>
            </a>
          </li>
        ))}
      </ul>
      {(!first || next !== null) && (
        <div class="row spread">
          <button type="button" disabled={first} onClick={onFirst}>
            First page
          </button>
          <button type="button" disabled={next === null} onClick={() => onNext(next ?? "")}>
            Next page
          </button>
        </div>
      )}
    </>
  );
}

// --- by a query ----------------------------------------------------------------------

const EXAMPLE = `{
  "selector": { "type": "alarm", "active": true }
}`;

function ByQuery({ db, id }: { db: string; id: string | undefined }) {
  const [typed, setTyped] = useState(EXAMPLE);
  const [asked, setAsked] = useState<string>();
  const [mistake, setMistake] = useState<unknown>();
  const [bookmarks, setBookmarks] = useState<readonly string[]>([]);
  const bookmark = bookmarks.at(-1);
  const { value, error } = useLoaded(
    asked === undefined ? null : `${db} ${asked} ${bookmark ?? ""}`,
    (signal) => find(db, asked ?? "", bookmark, signal),
  );
  const submit = (event: Event) => {
    event.preventDefault();
    setMistake(undefined);
    setBookmarks([]);
    try {
      setAsked(line(parse(typed)));
    } catch (problem) {
      setAsked(undefined);
      setMistake(problem);
    }
  };
  return (
    <>
      <form class="stack" onSubmit={submit}>
        <label>
          Mango query
          <textarea
            class="json query"
            value={typed}
            spellcheck={false}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="primary">
          Find
        </button>
      </form>
      {mistake !== undefined && <Failure error={mistake} />}
      {error !== undefined && <Failure error={error} />}
      {asked !== undefined && !value && error === undefined && <Loading />}
      {value?.warning && <p class="note">{value.warning}</p>}
      {value && (
        <Ids
          db={db}
          found={value}
          chosen={id}
          first={bookmarks.length === 0}
          onFirst={() => setBookmarks([])}
          onNext={(next) => setBookmarks([...bookmarks, next])}
        />
      )}
    </>
  );
}

async function find(
  db: string,
  query: string,
  bookmark: string | undefined,
  signal: AbortSignal,
): Promise<Found & { warning: string | undefined }> {
  const asked = JSON.parse(query) as Record<string, unknown>;
  // A selector alone is a query, too.
  const whole = "selector" in asked ? asked : { selector: asked };
  const body = { limit: PAGE, ...whole, fields: ["_id"], ...(bookmark ? { bookmark } : {}) };
  const answer = await request<{ docs: { _id: string }[]; bookmark: string; warning?: string }>(
    "POST",
    inDb(db, ["_find"]),
    { body, signal },
  );
  const more = answer.docs.length >= Number(body.limit);
  return {
    ids: answer.docs.map((doc) => doc._id),
    next: more ? answer.bookmark : null,
    warning: answer.warning,
  };
}
