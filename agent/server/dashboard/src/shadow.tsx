/** What a device is set to, and what it is wanted to be set to: the document `device:NAME`. */

import { useEffect, useState } from "preact/hooks";
import { ApiError, getText, inDb, request } from "./api";
import { useLoaded, useShared } from "./hooks";
import { type Json, line, parse, same, shown, text, withValue } from "./json";
import { Ago, Failure, Name, Pill } from "./parts";
import { parseTime } from "./text";

const EMPTY: Json = { kind: "object", members: new Map() };

export function Shadow({
  db,
  device,
  changes,
}: {
  db: string;
  device: string;
  /** Another number whenever the document has changed, or may have. */
  changes: number;
}) {
  const { writes } = useShared();
  const id = `device:${device}`;
  const { value, error, reload } = useLoaded(`${db} ${id}`, (signal) => read(db, id, signal));
  useEffect(() => {
    if (changes) reload();
  }, [changes]);
  if (value === undefined) return error === undefined ? null : <Failure error={error} />;
  const settings = settingsOf(value);
  const change = async (setting: Setting, wanted: Json | undefined) => {
    await set(db, id, device, setting, wanted);
    reload();
  };
  if (!settings.length && !writes) return null;
  return (
    <section aria-labelledby="settings" class="settings">
      <h2 id="settings">
        Settings of <Name>{device}</Name>
      </h2>
      {error !== undefined && <Failure error={error} />}
      {settings.length > 0 && (
        <div class="card scrolls">
          <table class="tall">
            <thead>
              <tr>
                <th>Setting</th>
                <th>The device says</th>
                <th>Wanted</th>
                <th>State</th>
              </tr>
            </thead>
            <tbody>
              {settings.map((setting) => (
                <SettingRow
                  key={setting.name}
                  setting={setting}
                  editable={writes}
                  onSet={(wanted) => change(setting, wanted)}
                />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {!settings.length && (
        <p class="note">
          This device has not said what can be set. What is wanted goes down the wire to it, again
          and again until it is confirmed.
        </p>
      )}
      {writes && <NewSetting onSet={change} />}
    </section>
  );
}

interface Setting {
  readonly name: string;
  readonly reported?: Json | undefined;
  readonly desired?: Json | undefined;
  readonly refused?: Json | undefined;
}

function SettingRow({
  setting,
  editable,
  onSet,
}: {
  setting: Setting;
  editable: boolean;
  onSet: (wanted: Json | undefined) => Promise<void>;
}) {
  return (
    <tr>
      <th scope="row">
        <Name code>{setting.name}</Name>
      </th>
      <td data-label="The device says">
        {setting.reported ? <code>{line(setting.reported)}</code> : "–"}
      </td>
      <td data-label="Wanted">
        {editable ? (
          <ValueForm
            label={`Wanted value of ${setting.name}`}
            value={setting.desired ?? setting.reported}
            {...(setting.desired && { takeBack: `Take back what is wanted of ${setting.name}` })}
            onSet={onSet}
          />
        ) : setting.desired ? (
          <code>{line(setting.desired)}</code>
        ) : (
          "–"
        )}
      </td>
      <td data-label="State">
        <State setting={setting} />
      </td>
    </tr>
  );
}

function State({ setting: { desired, reported, refused } }: { setting: Setting }) {
  if (desired !== undefined && same(member(refused, "value"), desired)) {
    return (
      <>
        <Pill tone="error">refused</Pill>{" "}
        <span class="note">
          {shown(text(refused, "reason"))} · <Ago time={parseTime(text(refused, "time"))} />
        </span>
      </>
    );
  }
  if (desired === undefined) return <span class="note">nothing wanted</span>;
  if (same(desired, reported)) return <Pill tone="good">confirmed</Pill>;
  return <Pill tone="warning">waiting for the device</Pill>;
}

function ValueForm({
  label,
  value,
  takeBack,
  onSet,
}: {
  label: string;
  value: Json | undefined;
  /** What the button is called that ends the wish; without it there is none. */
  takeBack?: string;
  onSet: (wanted: Json | undefined) => Promise<void>;
}) {
  const given = value ? line(value) : "";
  const [edited, setEdited] = useState<string>();
  const [error, setError] = useState<unknown>();
  const set = async (wanted: Json | undefined) => {
    setError(undefined);
    try {
      await onSet(wanted);
      setEdited(undefined);
    } catch (problem) {
      setError(problem);
    }
  };
  const submit = (event: Event) => {
    event.preventDefault();
    void set(valueOf(edited ?? given));
  };
  return (
    <form class="row" onSubmit={submit}>
      <input
        aria-label={label}
        value={edited ?? given}
        required
        spellcheck={false}
        onInput={(event) => setEdited(event.currentTarget.value)}
      />
      <button type="submit" disabled={edited === undefined || edited === given}>
        Set
      </button>
      {takeBack && (
        <button
          type="button"
          class="quiet"
          title={takeBack}
          aria-label={takeBack}
          onClick={() => set(undefined)}
        >
          ✕
        </button>
      )}
      {error !== undefined && <Failure error={error} />}
    </form>
  );
}

/** For what a device has not reported; most do. */
function NewSetting({
  onSet,
}: {
  onSet: (setting: Setting, wanted: Json | undefined) => Promise<void>;
}) {
  const [name, setName] = useState("");
  return (
    <details class="another">
      <summary>Another setting</summary>
      <div class="row">
        <input
          aria-label="Name of the setting"
          placeholder="name"
          value={name}
          spellcheck={false}
          onInput={(event) => setName(event.currentTarget.value)}
        />
        <ValueForm
          key={name}
          label="Its wanted value"
          value={undefined}
          onSet={async (wanted) => {
            if (!name.trim()) throw new Error("Give the setting's name first.");
            await onSet({ name: name.trim() }, wanted);
            setName("");
          }}
        />
      </div>
    </details>
  );
}

/** JSON where it is some, text otherwise: nobody wants to type quotation marks. */
function valueOf(typed: string): Json {
  try {
    return parse(typed);
  } catch {
    return { kind: "atom", text: JSON.stringify(typed) };
  }
}

/** Not by its path: a device that has none yet would be an error in the browser's console. */
async function read(db: string, id: string, signal?: AbortSignal): Promise<Json> {
  const path = inDb(db, ["_all_docs"], { key: JSON.stringify(id), include_docs: true });
  const answer = parse(await getText(path, signal));
  const rows = member(answer, "rows");
  const doc = member(rows?.kind === "array" ? rows.items[0] : undefined, "doc");
  return doc?.kind === "object" ? doc : EMPTY;
}

function member(json: Json | undefined, key: string): Json | undefined {
  return json?.kind === "object" ? json.members.get(key) : undefined;
}

function settingsOf(doc: Json): Setting[] {
  const part = (name: string) => {
    const there = member(doc, name);
    return there?.kind === "object" ? there.members : new Map<string, Json>();
  };
  const [desired, reported, refused] = [part("desired"), part("reported"), part("refused")];
  const names = [...new Set([...reported.keys(), ...desired.keys(), ...refused.keys()])].sort();
  return names.map((name) => ({
    name,
    desired: desired.get(name),
    reported: reported.get(name),
    refused: refused.get(name),
  }));
}

const TRIES = 5;

/** Edits only what is wanted of one setting, over whatever else was written meanwhile. */
async function set(
  db: string,
  id: string,
  device: string,
  setting: Setting,
  wanted: Json | undefined,
): Promise<void> {
  for (let left = TRIES; ; left -= 1) {
    const now = await read(db, id);
    const there = settingsOf(now).find(({ name }) => name === setting.name);
    if (there && !same(there.desired, setting.desired)) {
      throw new Error("Somebody else has just set it. Look at what is wanted now, then try again.");
    }
    const whole = ["type", "device"].reduce(
      (doc, key) =>
        withValue(doc, [key], {
          kind: "atom",
          text: JSON.stringify(key === "type" ? "device" : device),
        }),
      now,
    );
    const edited = withValue(whole, ["desired", setting.name], wanted);
    try {
      await request("PUT", inDb(db, [id]), { text: line(edited) });
      return;
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 409 && left > 1)) throw error;
    }
  }
}
