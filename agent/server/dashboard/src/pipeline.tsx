/** Detect, transfer, verify and confirm, process: what happens to the data, as it happens. */

import { useEffect, useState } from "preact/hooks";
import { Sparkline, type Tone } from "./parts";
import { type Direction, type Hook, STAGES, type Stages, type Status, directions } from "./status";
import { count, duration, many, rate, sum } from "./text";

interface View {
  readonly title: string;
  readonly unit: string;
  readonly note: string;
  readonly tone: Tone;
}

const KEPT = 60;

/** The rates of the last answers, by stage. */
function useCourses(stages: Stages): ReadonlyMap<string, readonly number[]> {
  const [courses, setCourses] = useState<ReadonlyMap<string, readonly number[]>>(new Map());
  useEffect(() => {
    setCourses(
      (before) =>
        new Map(
          STAGES.map((name) => {
            const course = [...(before.get(name) ?? []), stages[name].rate ?? 0];
            return [name, course.slice(-KEPT)];
          }),
        ),
    );
  }, [stages]);
  return courses;
}

export function Pipeline({ stages, status }: { stages: Stages; status: Status }) {
  const courses = useCourses(stages);
  const views = viewsOf(status);
  return (
    <section aria-label="What happens to the data">
      <ol class="pipeline">
        {STAGES.map((name) => {
          const { title, unit, note, tone } = views[name];
          const stage = stages[name];
          return (
            <li key={name} class={`stage ${stage.rate ? "moving" : "still"}`}>
              <h2>
                <span class={`dot ${tone}`} aria-hidden="true" /> {title}
              </h2>
              <p class="figure">
                <span class="number">{rate(stage.rate)}</span> <span class="unit">{unit}</span>
              </p>
              <Sparkline values={courses.get(name) ?? []} length={KEPT} />
              <p class="note">
                {count(stage.count)} in all · {note}
              </p>
            </li>
          );
        })}
      </ol>
    </section>
  );
}

function viewsOf(status: Status): Views {
  const ways = directions(status);
  const sensors = (status.devices ?? []).flatMap((device) => device.sensors);
  const waiting = sum(ways.map(({ direction }) => direction.pending));
  const failing = ways.filter(({ direction }) => toneOf(direction) === "error").length;
  const lag = Math.max(0, ...ways.map(({ direction }) => direction.lag ?? 0));
  const confirmed = failing
    ? `${failing} of ${ways.length} directions fail`
    : lag < 1
      ? "everything confirmed"
      : `${duration(lag)} behind`;
  const bad: Tone = ways.length ? (failing ? "error" : "warning") : "quiet";
  const hooks = status.hooks ?? [];
  const dead = sum(hooks.map((hook) => hook.dead));
  const processed = dead
    ? `${count(dead)} given up`
    : hooks.length
      ? many(hooks.length, "hook")
      : "no hook configured";
  const linked = ways.length > 0 && !failing;
  const views: Views = {
    detect: {
      title: "Detect",
      unit: "changes/s",
      note: many(sensors.length, "sensor"),
      tone: "good",
    },
    transfer: {
      title: "Transfer",
      unit: "changes/s",
      note: ways.length ? `${count(waiting)} waiting` : "no remote configured",
      tone: linked && !waiting ? "good" : bad,
    },
    confirm: {
      title: "Verify and confirm",
      unit: "changes/s",
      note: ways.length ? confirmed : "nothing to confirm",
      tone: linked && lag < 60 ? "good" : bad,
    },
    process: {
      title: "Process",
      unit: "documents/s",
      note: processed,
      tone: dead ? "error" : hooks.length ? "good" : "quiet",
    },
  };
  return status.remotes ? views : { ...views, ...OF_HUB };
}

type Views = Record<(typeof STAGES)[number], View>;

/** A hub sends nothing by itself: gateways bring, and are told when it is on the disk. */
const OF_HUB: Pick<Views, "detect" | "transfer" | "confirm"> = {
  detect: { title: "Detect", unit: "changes/s", note: "in all databases", tone: "good" },
  transfer: { title: "Transfer", unit: "revisions/s", note: "received", tone: "good" },
  confirm: {
    title: "Verify and confirm",
    unit: "revisions/s",
    note: "on disk before the answer",
    tone: "good",
  },
};

/** How good the state of a replication, or of a hook, is. */
export function toneOf({ state, last_error }: Direction | Hook): Tone {
  if (state === "failed") return "error";
  if (state === "waiting") return last_error ? "error" : "warning";
  return state === "live" ? "good" : "warning";
}
