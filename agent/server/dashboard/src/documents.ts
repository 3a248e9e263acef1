/** Documents and conflicts, as the server tells them. */

import { getText, inDb } from "./api";
import { type Json, format, line, parse, text } from "./json";

export interface Conflict {
  readonly id: string;
  /** All live revisions; of too many, or too large ones, not all are among `leaves`. */
  readonly revs: readonly string[];
  readonly leaves: readonly Json[];
  readonly base: Json | null;
  readonly policy: string;
  readonly state: string;
  readonly reason: string;
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

/** Conflicts by id, from `start` on, and how many there are in all. */
export async function conflictsOf(
  db: string,
  start: string | undefined,
  limit: number,
  signal: AbortSignal,
): Promise<{ total: number; rows: Conflict[] }> {
  const start_key = start === undefined ? undefined : JSON.stringify(start);
  const answer = parse(await getText(inDb(db, ["_conflicts"], { limit, start_key }), signal));
  const members = answer.kind === "object" ? answer.members : new Map<string, Json>();
  const rows = members.get("rows");
  return {
    total: Number(JSON.parse(line(members.get("total") ?? { kind: "atom", text: "0" }))),
    rows: rows?.kind === "array" ? rows.items.map(conflictOf) : [],
  };
}

function conflictOf(row: Json): Conflict {
  const members = row.kind === "object" ? row.members : new Map<string, Json>();
  const leaves = members.get("leaves");
  const revs = members.get("revs");
  const base = members.get("base");
  return {
    id: text(row, "id"),
    revs: revs === undefined ? [] : (JSON.parse(line(revs)) as string[]),
    leaves: leaves?.kind === "array" ? leaves.items : [],
    base: base?.kind === "object" ? base : null,
    policy: text(row, "policy"),
    state: text(row, "state"),
    reason: text(row, "reason"),
  };
}
