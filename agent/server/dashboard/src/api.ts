/** Requests to the server that this page came from. */

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly word: string,
    reason: string,
    /** The text of the whole answer. */
    readonly answer: string,
  ) {
    super(reason);
  }
}

/** Called when the server wants to know who this is. */
let onUnauthorized: () => void = () => undefined;

export function whenUnauthorized(call: () => void): void {
  onUnauthorized = call;
}

export interface Options {
  readonly body?: unknown;
  /** A body that is JSON text already. */
  readonly text?: string;
  readonly signal?: AbortSignal;
}

const NO_ANSWER = "The agent does not answer. Is it running?";

/** A browser takes these for steps in the path, however they are written; it would ask for another. */
const STEP = /\/\.\.?(?=[/?]|$)/;

async function send(method: string, path: string, options: Options): Promise<Response> {
  if (STEP.test(path.split("?", 1)[0] ?? "")) {
    const reason = 'No browser can ask for a document called "." or ".."; use the HTTP API.';
    throw new ApiError(400, "bad_request", reason, "");
  }
  const text = options.text ?? (options.body === undefined ? null : JSON.stringify(options.body));
  const headers: Record<string, string> = { Accept: "application/json" };
  if (text !== null) headers["Content-Type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: text,
      signal: options.signal ?? null,
      credentials: "same-origin",
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", NO_ANSWER, "");
  }
  if (response.ok) return response;
  const answer = await response.text();
  if (response.status === 401 && !path.startsWith("/_session")) onUnauthorized();
  const { error, reason } = asError(answer);
  throw new ApiError(response.status, error, reason || response.statusText, answer);
}

function asError(answer: string): { error: string; reason: string } {
  try {
    const value = JSON.parse(answer) as { error?: unknown; reason?: unknown };
    return { error: String(value.error ?? ""), reason: String(value.reason ?? "") };
  } catch {
    return { error: "", reason: "" };
  }
}

export async function request<T>(method: string, path: string, options: Options = {}): Promise<T> {
  return (await (await send(method, path, options)).json()) as T;
}

export function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return request<T>("GET", path, signal ? { signal } : {});
}

/** An answer's JSON text as it is: see json.ts. */
export async function getText(path: string, signal?: AbortSignal): Promise<string> {
  return (await send("GET", path, signal ? { signal } : {})).text();
}

/** Aborted with `signal`, or after so many milliseconds. */
export function within(milliseconds: number, signal: AbortSignal): AbortSignal {
  const abort = new AbortController();
  setTimeout(() => abort.abort(new DOMException(NO_ANSWER, "TimeoutError")), milliseconds);
  return AbortSignal.any([signal, abort.signal]);
}

/** The path of something in a database, with its query. */
export function inDb(
  db: string,
  segments: readonly string[],
  query: Record<string, string | number | boolean | undefined> = {},
): string {
  const path = [db, ...segments].map(encodeURIComponent).join("/");
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  const text = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return `/${path}${text ? `?${text}` : ""}`;
}

/** What a person is told of whatever went wrong. */
export function explained(error: unknown): string {
  if (error instanceof ApiError) {
    if (error.status === 401) return `${error.message} Log in again.`;
    if (error.status === 404 && error.word === "not_found" && /path|missing/.test(error.message)) {
      return "This server does not have that (404).";
    }
    return error.message;
  }
  return error instanceof Error ? error.message : String(error);
}

// --- the changes feed ----------------------------------------------------------------

export interface Change {
  readonly id: string;
  readonly seq: string;
  readonly deleted?: boolean;
  readonly doc?: Record<string, unknown>;
}

const HEARTBEAT = 15_000;
const LONGEST_SILENCE = 3 * HEARTBEAT;
const RETRY = 2_000;

/**
 * Calls `onChange` with each change from now on that a selector matches, until the signal. A lost
 * connection is made again, also one over which not even a sign of life comes any more; `onState` is
 * told whether there is one. While the page is not seen there is none: a browser has six to a server,
 * for all its pages. What comes meanwhile is not told, as it may be a night's readings: who was told
 * of a new connection asks for what there is.
 */
export async function follow(
  db: string,
  selector: unknown,
  onChange: (change: Change) => void,
  onState: (connected: boolean) => void,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await seen();
    const hidden = new AbortController();
    const hide = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", hide);
    const silent = new AbortController();
    let alarm: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(alarm);
      alarm = setTimeout(() => silent.abort(), LONGEST_SILENCE);
    };
    try {
      const path = inDb(db, ["_changes"], {
        feed: "continuous",
        filter: "_selector",
        include_docs: true,
        heartbeat: HEARTBEAT,
        since: "now",
      });
      const either = AbortSignal.any([signal, hidden.signal, silent.signal]);
      heard();
      const response = await send("POST", path, { body: { selector }, signal: either });
      onState(true);
      for await (const line of lines(response, heard)) {
        const change = JSON.parse(line) as Change & { last_seq?: string };
        if (change.last_seq === undefined) onChange(change);
      }
    } catch {
      // What is wrong with the database is said by who asks for more of it; it may be made again.
      if (signal.aborted) return;
    } finally {
      document.removeEventListener("visibilitychange", hide);
      clearTimeout(alarm);
    }
    onState(false);
    if (!hidden.signal.aborted) await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
}

/** Resolves when the page is seen. */
export async function seen(): Promise<void> {
  while (document.hidden) {
    await new Promise((resolve) =>
      document.addEventListener("visibilitychange", resolve, { once: true }),
    );
  }
}

async function* lines(response: Response, heard: () => void): AsyncGenerator<string> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const parts = (rest + value).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) if (part.trim()) yield part;
  }
}
