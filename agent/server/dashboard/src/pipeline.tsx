/** Detect, transfer, verify and confirm, process: what happens to the data, as it happens. */

import { useEffect, useRef, useState } from "preact/hooks";
import { Sparkline, type Tone } from "./parts";
import { type Direction, type Status, directions } from "./status";
import { count, duration, many, rate, sum } from "./text";

interface StageView {
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  readonly rate: number | null;
  readonly total: number | null;
  readonly note: string;
  readonly tone: Tone;
}

const KEPT = 60;

/** The rates of the last polls, by stage. */
function useCourses(stages: readonly StageView[], poll: unknown): Map<string, number[]> {
  const courses = useRef(new Map<string, number[]>());
  const [, drawn] = useState(0);
  useEffect(() => {
    for (const { name, rate: value } of stages) {
      const course = courses.current.get(name) ?? [];
      course.push(value ?? 0);
      courses.current.set(name, course.slice(-KEPT));
    }
    drawn((number) => number + 1);
  }, [poll]);
  return courses.current;
}

export function Pipeline({ status }: { status: Status }) {
  const stages = stagesOf(status);
  const courses = useCourses(stages, status);
  return (
    <section aria-label="What happens to the data">
      <ol class="pipeline">
        {stages.map((stage) => (
          <li key={stage.name} class={`stage ${stage.rate ? "moving" : "still"}`}>
            <h2>
              <span class={`dot ${stage.tone}`} aria-hidden="true" /> {stage.title}
            </h2>
            <p class="figure">
              <span class="number">{rate(stage.rate)}</span> <span class="unit">{stage.unit}</span>
            </p>
            <Sparkline values={courses.get(stage.name) ?? []} length={KEPT} />
            <p class="note">
              {stage.total !== null && <>{count(stage.total)} in all · </>}
              {stage.note}
            </p>
          </li>
        ))}
      </ol>
    </section>
  );
}

function stagesOf(status: Status): StageView[] {
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
  const transferred: Tone = failing ? "error" : waiting ? "warning" : "good";
  const stage = (
    name: string,
    title: string,
    unit: string,
    note: string,
    tone: Tone,
    otherwise: { rate: number | null; total: number | null },
  ): StageView => {
    const known = status.pipeline?.[name];
    const total = Object.entries(known ?? {}).find(
      ([key, value]) => !key.includes("rate") && typeof value === "number",
    )?.[1];
    return {
      name,
      title,
      unit,
      note,
      tone,
      rate: known ? (known["rate"] ?? null) : otherwise.rate,
      total: known ? (total ?? null) : otherwise.total,
    };
  };
  const unknown = { rate: null, total: null };
  const links = ways.length ? many(waiting, "change") + " waiting" : "no remote configured";
  return [
    stage("detect", "Detect", "changes/s", many(sensors.length, "sensor"), "good", {
      rate: sum(sensors.map((sensor) => sensor.rate)),
      total: sum(sensors.map((sensor) => sensor.readings)),
    }),
    stage("transfer", "Transfer", "changes/s", links, ways.length ? transferred : "quiet", unknown),
    stage(
      "confirm",
      "Verify and confirm",
      "changes/s",
      ways.length ? confirmed : "nothing to confirm",
      ways.length ? (failing ? "error" : lag < 60 ? "good" : "warning") : "quiet",
      { rate: null, total: sum(ways.map(({ direction }) => direction.docs_written)) },
    ),
    stage("process", "Process", "calls/s", "by hooks", "quiet", unknown),
  ];
}

/** How good the state of a replication is. */
export function toneOf(direction: Direction): Tone {
  if (direction.state === "failed") return "error";
  if (direction.state === "waiting") return direction.last_error ? "error" : "warning";
  return direction.state === "live" ? "good" : "warning";
}
