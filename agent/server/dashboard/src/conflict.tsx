/** One document's versions side by side with what they began with, and a choice for each member. */

import { useState } from "preact/hooks";
import { ApiError, inDb, request } from "./api";
import { type Conflict, conflictOf } from "./documents";
import { go, link, useLoaded, useShared } from "./hooks";
import {
  type Field,
  type Json,
  body,
  differences,
  format,
  line,
  parse,
  same,
  shown,
  text,
  withValue,
} from "./json";
import { Action, DeleteDialog, Empty, Failure, Loading, Name, Pill, StatePill } from "./parts";
import { many, sentence } from "./text";

/** `start` is that of the list from which somebody came. */
export function OneConflict({
  db,
  id,
  start,
}: {
  db: string;
  id: string;
  start: string | undefined;
}) {
  const { value, error, reload } = useLoaded(`${db} ${id}`, (signal) => conflictOf(db, id, signal));
  const [overtaken, setOvertaken] = useState<string>();
  return (
    <div class="stack">
      <a href={link("conflicts", { db, start })}>All conflicts</a>
      <h2>
        <Name code>{id}</Name>
      </h2>
      {overtaken !== undefined && (
        <div class="notice warning" role="alert">
          {capital(sentence(overtaken))} This is how it stands now.
        </div>
      )}
      {value === undefined && (error === undefined ? <Loading /> : <Failure error={error} />)}
      {value === null && (
        <Empty title="This document has no conflict any more">
          <a href={link("documents", { db, id })}>Show the document</a>
        </Empty>
      )}
      {value && (
        <Sides
          key={value.revs.join(" ")}
          db={db}
          conflict={value}
          onResolved={() => go("conflicts", { db, start })}
          onOvertaken={(what) => {
            setOvertaken(what);
            reload();
          }}
        />
      )}
    </div>
  );
}

/** Of the versions that are shown. */
function revsOf(conflict: Conflict): string[] {
  return conflict.leaves.map((leaf) => text(leaf, "_rev"));
}

function capital(words: string): string {
  return `${words.slice(0, 1).toUpperCase()}${words.slice(1)}`;
}

function titleOf(leaf: number): string {
  return leaf === 0 ? "Winner" : `Version ${leaf + 1}`;
}

/** For each member that differs, which leaf's value is to stay. */
type Choice = readonly (number | null)[];

function Sides({
  db,
  conflict,
  onResolved,
  onOvertaken,
}: {
  db: string;
  conflict: Conflict;
  onResolved: () => void;
  onOvertaken: (what: string) => void;
}) {
  const { writes } = useShared();
  const leaves = conflict.leaves.map(body);
  const winner: Json = leaves[0] ?? { kind: "object", members: new Map() };
  const base = conflict.base ? body(conflict.base) : undefined;
  const fields = differences([base ?? winner, ...leaves]);
  const [choice, setChoice] = useState<Choice>(() =>
    fields.map((field) => suggested(field, base !== undefined)),
  );
  const [edited, setEdited] = useState<string>();
  const [deleting, setDeleting] = useState(false);
  const merged = fields.reduce<Json>(
    (doc, { path, values }, index) => withValue(doc, path, values[(choice[index] ?? 0) + 1]),
    winner,
  );
  const open = choice.filter((each) => each === null).length;
  const unseen = conflict.revs.length - conflict.leaves.length;
  const choose = (index: number, leaf: number) => {
    setEdited(undefined);
    setChoice(choice.map((before, at) => (at === index ? leaf : before)));
  };
  const resolve = async (how: string) => {
    const leavesText = JSON.stringify(conflict.revs);
    const asked = `{"id":${JSON.stringify(conflict.id)},"leaves":${leavesText},${how}}`;
    try {
      await request("POST", inDb(db, ["_resolve"]), { text: asked });
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 409)) throw error;
      onOvertaken(error.message);
      return;
    }
    onResolved();
  };
  return (
    <>
      <p class="hint">
        <StatePill conflict={conflict} /> {conflict.reason && capital(sentence(conflict.reason))}
        {!conflict.base && " The version that both sides began with is not kept here."}
        {unseen > 0 && ` ${unseen} more are not shown, too many or too large: keep one as it is.`}
      </p>
      <div class="card scrolls" tabIndex={0} role="region" aria-label="The versions side by side">
        <table class="sides tall">
          <thead>
            <tr>
              <th>Member</th>
              {base && <th>Before</th>}
              {revsOf(conflict).map((rev, leaf) => (
                <th key={rev} title={rev}>
                  {titleOf(leaf)} <Name code>{rev.slice(0, 9)}</Name>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {fields.map((field, index) => (
              <FieldRow
                key={field.path.join("\0")}
                field={field}
                withBase={base !== undefined}
                chosen={choice[index] ?? null}
                onChoose={writes ? (leaf) => choose(index, leaf) : null}
              />
            ))}
          </tbody>
          {writes && (
            <tfoot>
              <tr>
                <th scope="row">All of it</th>
                {base && <td />}
                {revsOf(conflict).map((rev, leaf) => (
                  <td key={rev}>
                    <Action run={() => resolve(`"choose":${JSON.stringify(rev)}`)}>
                      Keep {leaf === 0 ? "the winner" : `version ${leaf + 1}`}
                    </Action>
                  </td>
                ))}
              </tr>
            </tfoot>
          )}
        </table>
      </div>
      {writes && unseen === 0 && (
        <>
          <details>
            <summary>The result</summary>
            <textarea
              class="json"
              aria-label="The result, as JSON"
              value={edited ?? format(merged)}
              spellcheck={false}
              onInput={(event) => setEdited(event.currentTarget.value)}
            />
          </details>
          <div class="row">
            <Action
              kind="primary"
              disabled={open > 0 && edited === undefined}
              run={() => resolve(`"doc":${line(edited === undefined ? merged : parse(edited))}`)}
            >
              Resolve with what is chosen
            </Action>
            <button type="button" class="danger" onClick={() => setDeleting(true)}>
              Delete the document
            </button>
            {open > 0 && <span class="note">{many(open, "member")} still to choose</span>}
          </div>
        </>
      )}
      {deleting && (
        <DeleteDialog remove={() => resolve('"doc":null')} onClose={() => setDeleting(false)}>
          <Name code>{conflict.id}</Name> is deleted with all its versions, here and wherever it is
          replicated to.
        </DeleteDialog>
      )}
    </>
  );
}

/** Where one side only has changed something, its value; null where people have to choose. */
function suggested({ values: [before, ...sides] }: Field, hasBase: boolean): number | null {
  if (!hasBase) return sides.every((each) => same(each, sides[0])) ? 0 : null;
  const changed = sides.flatMap((each, index) => (same(each, before) ? [] : [index]));
  const [first, ...others] = changed;
  if (first === undefined) return 0;
  return others.every((index) => same(sides[index], sides[first])) ? first : null;
}

function FieldRow({
  field: { path, values },
  withBase,
  chosen,
  onChoose,
}: {
  field: Field;
  withBase: boolean;
  chosen: number | null;
  onChoose: ((leaf: number) => void) | null;
}) {
  const [before, ...sides] = values;
  const name = path.join(".");
  return (
    <tr>
      <th scope="row">
        <Name code>{name}</Name> {chosen === null && <Pill tone="warning">choose</Pill>}
      </th>
      {withBase && <Value value={before} />}
      {sides.map((value, leaf) => {
        const changed = withBase && !same(value, before);
        const shownValue = value ? line(value) : "not there";
        return (
          <td
            key={leaf}
            data-label={titleOf(leaf)}
            class={`value ${value ? "" : "absent"} ${changed ? "changed" : ""} ${
              chosen === leaf ? "chosen" : ""
            }`}
          >
            {onChoose ? (
              <label>
                <input
                  type="radio"
                  name={path.join("\0")}
                  checked={chosen === leaf}
                  aria-label={`${shown(name)}: ${shownValue}`}
                  onChange={() => onChoose(leaf)}
                />
                <span>
                  {shownValue} {changed && <span class="mark-changed">changed</span>}
                </span>
              </label>
            ) : (
              <span>
                {shownValue} {changed && <span class="mark-changed">changed</span>}
              </span>
            )}
          </td>
        );
      })}
    </tr>
  );
}

function Value({ value }: { value: Json | undefined }) {
  return (
    <td class={value ? "value" : "value absent"} data-label="Before">
      {value ? line(value) : "not there"}
    </td>
  );
}
