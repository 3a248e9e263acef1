/** One document: its members, its revisions, and an editor that overwrites nobody's changes. */

import { useState } from "preact/hooks";
import { ApiError, get, inDb, request } from "./api";
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
  withValue,
} from "./json";
import { readDocument } from "./pages/documents";
import { Dialog, Failure, Loading, Name, Pill } from "./parts";
import { bytes, many } from "./text";
import { type Leaf, RevisionTree } from "./tree";

const LARGE = 200_000; // letters of text that are shown without asking

export function Document({ db, id, rev }: { db: string; id: string; rev: string | undefined }) {
  const { writes } = useShared();
  const [editing, setEditing] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const shown = useLoaded(`${db} ${id} ${rev ?? ""}`, (signal) =>
    readDocument(db, id, rev, signal),
  );
  const leaves = useLoaded(`${db} ${id}`, (signal) => leavesOf(db, id, signal));
  const isGone = shown.error instanceof ApiError && shown.error.status === 404;
  const isDeleted = isGone && (shown.error as ApiError).message === "deleted";
  const doc = isGone ? undefined : shown.value;
  const live = leaves.value?.filter((leaf) => !leaf._deleted) ?? [];
  const reload = () => {
    shown.reload();
    leaves.reload();
  };
  return (
    <article class="stack">
      <div class="row spread">
        <h2>
          <Name code>{id}</Name>
        </h2>
        {doc && writes && !editing && rev === undefined && (
          <div class="row">
            <button type="button" onClick={() => setEditing(true)}>
              Edit
            </button>
            <button type="button" class="danger" onClick={() => setDeleting(true)}>
              Delete
            </button>
          </div>
        )}
      </div>
      {rev !== undefined && (
        <div class="notice quiet">
          This is the revision <Name code>{rev}</Name>.{" "}
          <a href={link("documents", { db, id })}>Show the winning one</a>
        </div>
      )}
      {live.length > 1 && (
        <div class="notice warning">
          {many(live.length, "revision")} of this document conflict.{" "}
          <a href={link("conflicts", { db, id })}>Resolve the conflict</a>
        </div>
      )}
      {shown.loading && <Loading />}
      {shown.error !== undefined && !doc && (
        <Failure
          error={shown.error}
          missing={isDeleted ? "This document is deleted." : "There is no such document."}
        />
      )}
      {doc && !editing && <Body pretty={doc.pretty} />}
      {doc && editing && (
        <Editor
          key={doc.rev}
          db={db}
          id={id}
          given={doc.json}
          onDone={() => {
            setEditing(false);
            reload();
          }}
          onCancel={() => setEditing(false)}
        />
      )}
      {doc && !editing && <Attachments db={db} id={id} doc={doc.json} rev={rev} />}
      {leaves.value && leaves.value.length > 0 && (
        <section aria-labelledby="revisions">
          <h2 id="revisions">Revisions</h2>
          <RevisionTree
            leaves={leaves.value}
            href={(leaf) => link("documents", { db, id, rev: leaf })}
          />
        </section>
      )}
      {deleting && doc && (
        <DeleteDialog
          db={db}
          id={id}
          rev={doc.rev}
          onClose={() => setDeleting(false)}
          onDone={() => {
            setDeleting(false);
            reload();
          }}
        />
      )}
    </article>
  );
}

async function leavesOf(db: string, id: string, signal: AbortSignal): Promise<Leaf[]> {
  const path = inDb(db, [id], { revs: true, open_revs: "all" });
  const answer = await get<({ ok: Leaf } | { missing: string })[]>(path, signal);
  return answer.flatMap((each) => ("ok" in each ? [each.ok] : []));
}

function Body({ pretty }: { pretty: string }) {
  const [whole, setWhole] = useState(pretty.length <= LARGE);
  return (
    <>
      {/* Scrolls, so the keyboard must reach it. */}
      <pre class="json card" tabIndex={0}>
        {whole ? pretty : pretty.slice(0, LARGE)}
      </pre>
      {!whole && (
        <div class="row">
          <span class="note">The first {bytes(LARGE)} are shown.</span>
          <button type="button" onClick={() => setWhole(true)}>
            Show all {bytes(pretty.length)}
          </button>
        </div>
      )}
    </>
  );
}

function Attachments({
  db,
  id,
  doc,
  rev,
}: {
  db: string;
  id: string;
  doc: Json;
  rev: string | undefined;
}) {
  const stubs = doc.kind === "object" ? doc.members.get("_attachments") : undefined;
  if (stubs?.kind !== "object" || !stubs.members.size) return null;
  return (
    <section aria-labelledby="attachments">
      <h2 id="attachments">Attachments</h2>
      <ul class="list card">
        {[...stubs.members].map(([name, stub]) => {
          const about = JSON.parse(line(stub)) as { content_type?: string; length?: number };
          return (
            <li key={name}>
              <a href={inDb(db, [id, name], { rev })} download={name}>
                <span class="line">
                  <Name>{name}</Name>
                  <span class="note">
                    <Name>{about.content_type ?? ""}</Name> · {bytes(about.length)}
                  </span>
                </span>
              </a>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

// --- editing -------------------------------------------------------------------------

interface Clash {
  readonly theirs: Json;
  readonly mine: Json;
  readonly fields: readonly Field[];
}

function Editor({
  db,
  id,
  given,
  onDone,
  onCancel,
}: {
  db: string;
  id: string;
  given: Json;
  onDone: () => void;
  onCancel: () => void;
}) {
  const [base, setBase] = useState(given);
  const [typed, setTyped] = useState(() => format(body(given)));
  const [error, setError] = useState<unknown>();
  const [clash, setClash] = useState<Clash>();
  const [busy, setBusy] = useState(false);
  const save = async (event: Event) => {
    event.preventDefault();
    setError(undefined);
    setBusy(true);
    try {
      const mine = objectOf(typed);
      const problem = await put(db, id, base, mine);
      if (problem) setClash(problem);
      else onDone();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  /** Goes on from what the other wrote. */
  const goOn = (doc: Json, theirs: Json) => {
    setBase(theirs);
    setTyped(format(body(doc)));
    setClash(undefined);
  };
  return (
    <form class="stack" onSubmit={save}>
      <textarea
        class="json"
        aria-label="The document's members, as JSON"
        value={typed}
        rows={Math.min(30, typed.split("\n").length + 2)}
        spellcheck={false}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      {error !== undefined && <Failure error={error} />}
      {clash && <Overtaken clash={clash} onGoOn={goOn} />}
      <div class="row">
        <button type="submit" class="primary" disabled={busy || clash !== undefined}>
          Save
        </button>
        <button type="button" onClick={onCancel}>
          Cancel
        </button>
      </div>
    </form>
  );
}

/** Somebody else has saved meanwhile: what they changed, beside what is changed here. */
function Overtaken({
  clash: { theirs, mine, fields },
  onGoOn,
}: {
  clash: Clash;
  onGoOn: (doc: Json, theirs: Json) => void;
}) {
  const changed = fields.filter(({ values: [before, , own] }) => !same(before, own));
  const merged = changed.reduce((doc, { path, values }) => withValue(doc, path, values[2]), theirs);
  return (
    <div class="notice warning" role="alert">
      <p>
        <strong>Somebody else has changed this document since you opened it.</strong> Nothing was
        saved yet.
      </p>
      <div class="scrolls">
        <table class="sides">
          <thead>
            <tr>
              <th>Member</th>
              <th>Before</th>
              <th>Theirs</th>
              <th>Yours</th>
            </tr>
          </thead>
          <tbody>
            {fields.map(({ path, values: [before, their, own] }) => (
              <tr key={path.join("\0")}>
                <th scope="row">
                  <Name code>{path.join(".")}</Name>{" "}
                  {!same(before, their) && !same(before, own) && !same(their, own) && (
                    <Pill tone="error">both</Pill>
                  )}
                </th>
                {[before, their, own].map((value, index) => (
                  <td
                    key={index}
                    class={value ? "value" : "value absent"}
                    data-label={["Before", "Theirs", "Yours"][index]}
                  >
                    {value ? line(value) : "not there"}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div class="row">
        <button type="button" onClick={() => onGoOn(merged, theirs)}>
          Put my changes on top of theirs
        </button>
        <button type="button" onClick={() => onGoOn(theirs, theirs)}>
          Take theirs
        </button>
        <button type="button" onClick={() => onGoOn(mine, theirs)}>
          Keep mine as it is
        </button>
      </div>
      <p class="note">The result comes into the editor; you save it then.</p>
    </div>
  );
}

/** Saves over `base`; returns what clashes if somebody else was first. */
async function put(db: string, id: string, base: Json, mine: Json): Promise<Clash | null> {
  // What the editor does not show: the revision it replaces, and attachments that stay.
  const kept = base.kind === "object" ? base.members : new Map<string, Json>();
  let whole = mine;
  for (const name of ["_rev", "_attachments"]) {
    const member = kept.get(name);
    if (member) whole = withValue(whole, [name], member);
  }
  try {
    await request("PUT", inDb(db, [id]), { text: line(whole) });
    return null;
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 409)) throw error;
  }
  const { json: theirs } = await readDocument(db, id, undefined);
  return { theirs, mine, fields: differences([body(base), body(theirs), body(mine)]) };
}

function objectOf(typed: string): Json {
  const json = parse(typed);
  if (json.kind !== "object") throw new Error("A document is a JSON object: { … }");
  return json;
}

function DeleteDialog({
  db,
  id,
  rev,
  onClose,
  onDone,
}: {
  db: string;
  id: string;
  rev: string;
  onClose: () => void;
  onDone: () => void;
}) {
  const [error, setError] = useState<unknown>();
  const remove = async () => {
    try {
      await request("DELETE", inDb(db, [id], { rev }));
      onDone();
    } catch (problem) {
      setError(
        problem instanceof ApiError && problem.status === 409
          ? new Error("Somebody has changed it meanwhile; nothing was deleted. Load it again.")
          : problem,
      );
    }
  };
  return (
    <Dialog title="Delete this document?" onClose={onClose}>
      <p>
        <Name code>{id}</Name> is deleted here, and wherever it is replicated to.
      </p>
      {error !== undefined && <Failure error={error} />}
      <div class="row">
        <button type="button" class="danger" onClick={remove}>
          Delete
        </button>
        <button type="button" onClick={onClose}>
          Keep it
        </button>
      </div>
    </Dialog>
  );
}

export function NewDocument({ db }: { db: string }) {
  const [id, setId] = useState("");
  const [typed, setTyped] = useState("{\n  \n}");
  const [error, setError] = useState<unknown>();
  const save = async (event: Event) => {
    event.preventDefault();
    setError(undefined);
    try {
      const doc = objectOf(typed);
      const made = id.trim()
        ? await request<{ id: string }>("PUT", inDb(db, [id.trim()]), { text: line(doc) })
        : await request<{ id: string }>("POST", inDb(db, []), { text: line(doc) });
      go("documents", { db, id: made.id });
    } catch (problem) {
      setError(
        problem instanceof ApiError && problem.status === 409
          ? new Error("There is a document with this id already.")
          : problem,
      );
    }
  };
  return (
    <form class="stack" onSubmit={save}>
      <h2>New document</h2>
      <label class="field">
        Id
        <input
          value={id}
          placeholder="one is made up"
          spellcheck={false}
          onInput={(event) => setId(event.currentTarget.value)}
        />
      </label>
      <textarea
        class="json"
        aria-label="The document's members, as JSON"
        value={typed}
        spellcheck={false}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      {error !== undefined && <Failure error={error} />}
      <div class="row">
        <button type="submit" class="primary">
          Save
        </button>
        <a class="button" href={link("documents", { db })}>
          Cancel
        </a>
      </div>
    </form>
  );
}
