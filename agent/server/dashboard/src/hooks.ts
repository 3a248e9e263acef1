/** What pages have in common: where they are, what time it is, and what the server last said. */

import { createContext } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";
import { seen, within } from "./api";
import type { Status } from "./status";
import { parseTime } from "./text";

// --- where we are --------------------------------------------------------------------

export interface Route {
  readonly page: string;
  readonly query: Readonly<Record<string, string>>;
}

function here(): Route {
  const [page = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: page || "overview", query: Object.fromEntries(new URLSearchParams(query)) };
}

export function link(page: string, query: Record<string, string | undefined> = {}): string {
  const given = Object.entries(query).filter((pair): pair is [string, string] => !!pair[1]);
  const text = new URLSearchParams(given).toString();
  return `#/${page}${text ? `?${text}` : ""}`;
}

export function go(page: string, query: Record<string, string | undefined> = {}): void {
  location.hash = link(page, query);
}

export function useRoute(): Route {
  const [route, setRoute] = useState(here);
  useEffect(() => {
    const changed = () => setRoute(here());
    addEventListener("hashchange", changed);
    changed(); // it may have changed before anybody listened
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

// --- what time it is -----------------------------------------------------------------

/** By so many milliseconds the server's clock is ahead of this machine's, which may be wrong. */
let ahead = 0;

/** Milliseconds since the epoch by the server's clock, as all times are that it tells. */
export function now(): number {
  return Date.now() + ahead;
}

/** The status was true at some time within the last so many milliseconds, which its answer took. */
export function setClock({ started, uptime }: Status, took: number): void {
  const start = parseTime(started);
  if (start === null) return;
  const least = start + uptime * 1000 - Date.now();
  ahead = Math.min(Math.max(ahead, least), least + took);
}

/** `now`, anew each second. */
export function useNow(): number {
  const [time, setTime] = useState(now);
  useEffect(() => {
    const timer = setInterval(() => setTime(now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return time;
}

// --- what the server says ------------------------------------------------------------

export interface Loaded<T> {
  readonly value: T | undefined;
  readonly error: unknown;
  readonly loading: boolean;
  readonly reload: () => void;
}

/** How often as long as an answer took nothing is asked: an agent has other things to do. */
const REST = 4;

/** Milliseconds after which what is loaded again and again is asked for anew: the connection is dead. */
const LONGEST_LOAD = 60_000;

/**
 * What `load` brings, again whenever `key` changes and, with `every`, after so many milliseconds,
 * more where answers take long, while the page is seen. What was there stays until there is
 * something new of the same key.
 */
export function useLoaded<T>(
  key: string | null,
  load: (signal: AbortSignal) => Promise<T>,
  every?: number,
): Loaded<T> {
  const [state, setState] = useState<{ key: string | null; value?: T; error?: unknown }>({ key });
  const [turn, setTurn] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    if (key === null) return;
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const run = async () => {
      if (every !== undefined) await seen();
      if (abort.signal.aborted) return;
      const asked = performance.now();
      let rest = 0;
      try {
        const { signal } = abort;
        const value = await latest.current(every ? within(LONGEST_LOAD, signal) : signal);
        if (!abort.signal.aborted) setState({ key, value });
        rest = Math.min(REST * (performance.now() - asked), LONGEST_LOAD);
      } catch (error) {
        if (abort.signal.aborted) return;
        setState((before) => (before.key === key ? { ...before, error } : { key, error }));
      }
      if (every !== undefined && !abort.signal.aborted) {
        timer = setTimeout(run, Math.max(every, rest));
      }
    };
    void run();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [key, turn, every]);
  const current = state.key === key ? state : { key };
  return {
    value: current.value,
    error: current.error,
    loading: key !== null && current.value === undefined && current.error === undefined,
    reload: () => setTurn((number) => number + 1),
  };
}

export interface Session {
  /** null: nobody, or a server in which nobody needs to log in. */
  readonly name: string | null;
  readonly roles: readonly string[];
  /** Whether this server has databases: a bridge has none. */
  readonly databases: boolean;
}

export interface Shared {
  readonly session: Session;
  readonly status: Loaded<Status>;
  readonly db: string | null;
  /** null: the server does not say which there are. */
  readonly dbs: readonly string[] | null;
  readonly writes: boolean;
}

export const SharedContext = createContext<Shared | null>(null);

export function useShared(): Shared {
  const shared = useContext(SharedContext);
  if (!shared) throw new Error("used outside of the page's frame");
  return shared;
}
