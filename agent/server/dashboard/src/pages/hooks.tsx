/** What a hook could not deal with: why, and whether it is to try once more. */

import { useState } from "preact/hooks";
import { request } from "../api";
import { type Route, link, useLoaded, useShared } from "../hooks";
import { Action, Ago, Dialog, Empty, Failure, Loading, Name, Pill } from "../parts";
import { toneOf } from "../pipeline";
import type { Hook } from "../status";
import { many, parseTime, sentence } from "../text";

const PAGE = 50;

interface Letter {
  readonly id: string;
  readonly error: string;
  readonly attempts: number;
  readonly time: string;
}

export function Hooks({ route }: { route: Route }) {
  const { session, status } = useShared();
  const { value, error } = status;
  if (!value) return error === undefined ? <Loading /> : <Failure error={error} />;
  const hook = value.hooks?.find(({ name }) => name === route.query["name"]);
  if (!hook) return <Empty title="There is no such hook" />;
  if (!session.roles.includes("_admin")) {
    return <Empty title="Only administrators see what a hook has given up" />;
  }
  return <GivenUp key={hook.name} hook={hook} />;
}

function GivenUp({ hook }: { hook: Hook }) {
  const path = `/_hooks/${encodeURIComponent(hook.name)}`;
  const [skip, setSkip] = useState(0);
  const [said, setSaid] = useState<string>();
  const [forgetting, setForgetting] = useState(false);
  const { value, error, reload } = useLoaded(
    `${path} ${skip}`,
    (signal) =>
      request<{ total_rows: number; dead: readonly Letter[] }>(
        "GET",
        `${path}/dead?limit=${PAGE}&skip=${skip}`,
        { signal },
      ),
    2000,
  );
  const retry = async (which: { ids: readonly string[] } | { all: true }) => {
    const { retried } = await request<{ retried: number }>("POST", `${path}/retry`, {
      body: which,
    });
    setSaid(`${many(retried, "document")} to be tried again.`);
    reload();
  };
  const tryNow = async () => {
    await request("POST", `${path}/retry`, { body: { ids: [] } });
    setSaid("It is tried now.");
  };
  const drop = async (which: { ids: readonly string[] } | { all: true }) => {
    const { dropped } = await request<{ dropped: number }>("POST", `${path}/drop`, { body: which });
    setSaid(`${many(dropped, "document")} forgotten.`);
    setForgetting(false);
    setSkip(0);
    reload();
  };
  const total = value?.total_rows ?? 0;
  return (
    <div class="stack">
      <h2>
        <Name>{hook.name}</Name> <Pill tone={toneOf(hook)}>{hook.state}</Pill>
      </h2>
      {hook.last_error && (
        <div class="notice warning">
          {sentence(hook.last_error)} Nothing is tried before this is over.{" "}
          <Action run={tryNow}>Try now</Action>
        </div>
      )}
      {error !== undefined && <Failure error={error} />}
      {!value && error === undefined && <Loading />}
      {value && total === 0 && (
        <Empty title="Nothing is given up">
          What <Name>{hook.target}</Name> refuses, or fails on time and again, is listed here.
        </Empty>
      )}
      {total > 0 && (
        <p class="hint">
          {many(total, "document")} given up. One that is tried again is sent as it is now, and
          leaves this list when that works. To forget one changes nothing in the document.
        </p>
      )}
      <div class="row">
        {total > 0 && (
          <>
            <Action run={() => retry({ all: true })}>Try all again</Action>
            <button type="button" class="danger" onClick={() => setForgetting(true)}>
              Forget all
            </button>
          </>
        )}
        <span role="status" class="note">
          {said}
        </span>
      </div>
      {total > 0 && (
        <ul class="list card">
          {value?.dead.map((letter) => (
            <li key={letter.id} class="letter">
              <div>
                <a href={link("documents", { db: hook.database ?? undefined, id: letter.id })}>
                  <Name code>{letter.id}</Name>
                </a>
                <p class="note">
                  <Ago time={parseTime(letter.time)} />, after {many(letter.attempts, "attempt")}:{" "}
                  <Name>{letter.error}</Name>
                </p>
              </div>
              <div class="row">
                <Action run={() => retry({ ids: [letter.id] })}>Try again</Action>
                <Action run={() => drop({ ids: [letter.id] })}>Forget</Action>
              </div>
            </li>
          ))}
        </ul>
      )}
      {(skip > 0 || total > PAGE) && (
        <div class="row spread">
          <button type="button" disabled={!skip} onClick={() => setSkip(Math.max(0, skip - PAGE))}>
            Previous page
          </button>
          <button
            type="button"
            disabled={skip + PAGE >= total}
            onClick={() => setSkip(skip + PAGE)}
          >
            Next page
          </button>
        </div>
      )}
      {forgetting && (
        <Dialog title="Forget all of them?" onClose={() => setForgetting(false)}>
          <p>
            <Name>{hook.name}</Name> is never called with them, unless they change. The documents
            stay as they are.
          </p>
          <div class="row">
            <Action kind="danger" run={() => drop({ all: true })}>
              Forget them
            </Action>
            <button type="button" onClick={() => setForgetting(false)}>
              Keep them
            </button>
          </div>
        </Dialog>
      )}
    </div>
  );
}
