/** Small pieces that the pages are made of. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, explained } from "./api";
import { useNow, useShared } from "./hooks";
import { shown } from "./json";
import { ago, at } from "./text";

export type Tone = "good" | "warning" | "error" | "quiet";

export function Pill({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`pill ${tone}`}>{children}</span>;
}

/** A name that somebody else has given: it turns no text around, and hides nothing. */
export function Name({ children, code }: { children: string; code?: boolean }) {
  return <bdi class={code ? "code" : undefined}>{shown(children)}</bdi>;
}

export function Ago({ time }: { time: number | null }) {
  const now = useNow();
  return (
    <time title={at(time)} dateTime={time === null ? undefined : new Date(time).toISOString()}>
      {ago(time, now)}
    </time>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <div class="empty-more">{children}</div>}
    </div>
  );
}

export function NoDatabase() {
  return useShared().dbs === null ? (
    <Empty title="Which database?">
      Write its name at the top. Only administrators are told which ones there are.
    </Empty>
  ) : (
    <Empty title="There is no database yet">
      One is made when a gateway replicates to this server for the first time.
    </Empty>
  );
}

/** What went wrong; `missing` is said where the server does not know the path at all. */
export function Failure({ error, missing }: { error: unknown; missing?: string }) {
  const gone = error instanceof ApiError && error.status === 404 && missing !== undefined;
  return (
    <div class={`notice ${gone ? "quiet" : "error"}`} role="alert">
      {gone ? missing : shown(explained(error))}
    </div>
  );
}

export function Loading() {
  return (
    <p class="loading" role="status">
      Loading …
    </p>
  );
}

export function Stat({
  label,
  value,
  unit,
  children,
}: {
  label: string;
  value: ComponentChildren;
  unit?: string;
  children?: ComponentChildren;
}) {
  return (
    <div class="stat">
      <dt>{label}</dt>
      <dd>
        <span class="number">{value}</span>
        {unit && <span class="unit"> {unit}</span>}
        {children && <div class="more">{children}</div>}
      </dd>
    </div>
  );
}

/** How full something is. */
export function Bar({ part, label }: { part: number; label: string }) {
  const percent = Math.max(0, Math.min(100, part * 100));
  const tone = percent > 95 ? "error" : percent > 85 ? "warning" : "good";
  return (
    <div
      class={`bar ${tone}`}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(percent)}
    >
      <span style={{ width: `${percent}%` }} />
    </div>
  );
}

const SPARK_WIDTH = 120;
const SPARK_HEIGHT = 28;

/** The course of a few values; decoration, since the newest stands beside it. */
export function Sparkline({ values, length }: { values: readonly number[]; length: number }) {
  const most = Math.max(...values, 0.001);
  const points = values.map((value, index) => {
    const x = ((length - values.length + index) / (length - 1)) * SPARK_WIDTH;
    return `${x.toFixed(1)},${(SPARK_HEIGHT - 2 - (value / most) * (SPARK_HEIGHT - 4)).toFixed(1)}`;
  });
  return (
    <svg
      class="spark"
      viewBox={`0 0 ${SPARK_WIDTH} ${SPARK_HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      {points.length > 1 && <polyline points={points.join(" ")} />}
    </svg>
  );
}

/** A question before something that cannot be undone. */
export function Dialog({
  title,
  children,
  onClose,
}: {
  title: string;
  children: ComponentChildren;
  onClose: () => void;
}) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = element.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={element} onClose={onClose} aria-labelledby="dialog-title">
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

/** A button whose work takes time; it says what went wrong. */
export function Action({
  run,
  children,
  kind = "",
  disabled = false,
}: {
  run: () => Promise<void>;
  children: ComponentChildren;
  kind?: string;
  disabled?: boolean;
}) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const there = useRef(true);
  useEffect(() => () => void (there.current = false), []);
  const click = async () => {
    setBusy(true);
    setError(undefined);
    try {
      await run();
    } catch (problem) {
      if (there.current) setError(problem);
    } finally {
      if (there.current) setBusy(false);
    }
  };
  return (
    <>
      <button type="button" class={kind} disabled={disabled || busy} onClick={click}>
        {children}
      </button>
      {error !== undefined && <Failure error={error} />}
    </>
  );
}

/** Asks before a document is deleted; `children` say what that does. */
export function DeleteDialog({
  remove,
  onClose,
  children,
}: {
  remove: () => Promise<void>;
  onClose: () => void;
  children: ComponentChildren;
}) {
  return (
    <Dialog title="Delete this document?" onClose={onClose}>
      <p>{children}</p>
      <div class="row">
        <Action kind="danger" run={remove}>
          Delete
        </Action>
        <button type="button" onClick={onClose}>
          Keep it
        </button>
      </div>
    </Dialog>
  );
}

/** What a policy has made of a conflict so far. */
export function StatePill({
  conflict: { state, policy },
}: {
  conflict: { readonly state: string; readonly policy: string | null };
}) {
  const tone = state === "failed" ? "error" : state === "undecided" ? "warning" : "quiet";
  return (
    <Pill tone={tone}>
      {state}
      {policy && ` (${shown(policy)})`}
    </Pill>
  );
}
