/** Documents and conflicts, as the server tells them. */

import { get, getText, inDb } from "./api";
import { type Json, format, items, member, parse, text } from "./json";

/** A conflict as it is listed: without the documents, which may be large. */
export interface ConflictRow {
  readonly id: string;
  /** All live revisions, the winner first. */
  readonly revs: readonly string[];
  /** In which they differ; some, of so many in all. */
  readonly fields: readonly string[];
  readonly differences: number;
  readonly policy: string | null;
  readonly state: string;
  readonly reason: string | null;
}

export interface Conflict extends ConflictRow {
  /** Of too many, or too large ones, not all of `revs`. */
  readonly leaves: readonly Json[];
  readonly base: Json | null;
}

/** A revision of a document; without `rev` the winning one. */
export async function readDocument(
  db: string,
  id: string,
  rev: string | undefined,
  signal?: AbortSignal,
): Promise<{ json: Json; rev: string; pretty: string }> {
  const json = parse(await getText(inDb(db, [id], { rev }), signal));
  return { json, rev: text(json, "_rev"), pretty: format(json) };
}

/** Conflicts by id, from `start` on, and how many there are in all; `next` is where to go on. */
export function conflictsOf(
  db: string,
  start: string | undefined,
  limit: number,
  signal: AbortSignal,
): Promise<{ total: number; rows: ConflictRow[]; next: string | null }> {
  const start_key = start === undefined ? undefined : JSON.stringify(start);
  return get(inDb(db, ["_conflicts"], { limit, start_key }), signal);
}

/** One conflict with its documents; null where there is none. */
export async function conflictOf(
  db: string,
  id: string,
  signal: AbortSignal,
): Promise<Conflict | null> {
  const query = { key: JSON.stringify(id), include_docs: true };
  const answer = await getText(inDb(db, ["_conflicts"], query), signal);
  const [row] = (JSON.parse(answer) as { rows: ConflictRow[] }).rows;
  if (!row) return null;
  const [whole] = items(member(parse(answer), "rows"));
  const base = member(whole, "base");
  const leaves = items(member(whole, "leaves"));
  return { ...row, leaves, base: base?.kind === "object" ? base : null };
}
