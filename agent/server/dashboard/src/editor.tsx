/** An editor of a document's JSON that overwrites nobody's changes. */

import { useState } from "preact/hooks";
import { ApiError, inDb, request } from "./api";
import { readDocument } from "./documents";
import { go, link } from "./hooks";
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
import { Failure, Name, Pill } from "./parts";

interface Clash {
  readonly theirs: Json;
  readonly mine: Json;
  readonly fields: readonly Field[];
}

export function Editor({
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
        <table class="sides tall">
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
