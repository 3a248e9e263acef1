/** A sensor's value now, its course, and a file of it. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, inDb } from "./api";
import { now, useLoaded, useNow, useShared } from "./hooks";
import { type Live, newest } from "./live";
import { Ago, Empty, Failure, Loading, Name, Pill } from "./parts";
import { Plot, type Range } from "./plot";
import { type Drawn, FLAGS, type Series, drawn } from "./series";
import type { DeviceSensor, Sensor } from "./status";
import { at, many, measure, rate, symbol } from "./text";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const SPANS = [
  ["5 min", 5 * MINUTE],
  ["1 hour", HOUR],
  ["1 day", DAY],
  ["1 week", 7 * DAY],
  ["1 month", 30 * DAY],
  ["1 year", 365 * DAY],
] as const;
const MOST_POINTS = 800;
const SHORTEST = 1000; // milliseconds of time that can be zoomed into

export function Course({ db, sensor, live }: { db: string; sensor: Sensor; live: Live }) {
  // A stretch of time that stands, or the last so many milliseconds until now.
  const [view, setView] = useState<Range | number>(5 * MINUTE);
  const [point, setPoint] = useState<number | null>(null);
  const moment = useNow();
  const range = typeof view === "number" ? { from: moment - view, to: moment } : view;
  const span = range.to - range.from;
  const key = typeof view === "number" ? `last ${view}` : `${range.from} ${range.to}`;
  const series = useLoaded(
    key,
    async (signal) => {
      const end = typeof view === "number" ? now() : range.to;
      return get<Series>(seriesPath(db, sensor, { from: end - span, to: end }), signal);
    },
    typeof view === "number" ? Math.max(5000, view / MOST_POINTS) : undefined,
  );
  useEffect(() => {
    if (live.connections > 1) series.reload();
  }, [live.connections]);
  // What is there stays on the screen until what was zoomed into has come.
  const before = useRef<Series | undefined>(undefined);
  if (series.value) before.current = series.value;
  const shown = series.value ?? before.current;
  const points = useMemo(
    () => (shown ? drawn(shown, typeof view === "number" ? live.tail : []) : null),
    [shown, live.tail, view],
  );
  const zoom = ({ from, to }: Range) => {
    const short = Math.max(SHORTEST - (to - from), 0) / 2;
    setView({ from: from - short, to: to + short });
  };
  // A fast sensor's documents come late: the list may know more.
  const here = useDeviceSensor(sensor);
  const last = newest(sensor, live);
  return (
    <section class="stack" aria-labelledby="sensor-name">
      <div class="row spread">
        <h2 id="sensor-name">
          <Name>{sensor.device}</Name> <span class="quiet-text">/</span>{" "}
          <Name>{sensor.sensor}</Name>
        </h2>
        <Pill tone={live.connected ? "good" : "quiet"}>
          {live.connected ? "live" : "connecting"}
        </Pill>
      </div>
      <p class="reading">
        <span class="value" data-testid="value">
          {measure(last.value)}
        </span>
        <span class="unit">{symbol(sensor.unit)}</span>
        <span class="note">
          <Ago time={last.time} />
        </span>
        {last.quality && <Pill tone="warning">{last.quality}</Pill>}
        {here && (
          <span class="note">
            {rate(here.rate)}/s
            {!!here.gaps && ` · ${many(here.gaps, "gap")}`}
            {here.errors > 0 && ` · ${many(here.errors, "error")}`}
          </span>
        )}
      </p>
      <div class="card padded stack">
        <div class="row spread">
          <Spans view={view} onChoose={setView} />
          <a class="button" href={csvPath(db, sensor, range)} download>
            Save as CSV
          </a>
        </div>
        {series.error !== undefined && <Failure error={series.error} />}
        {!points && series.error === undefined && <Loading />}
        {points && (
          <Plot
            points={points}
            gaps={shown?.gaps ?? []}
            range={range}
            label={`Course of ${sensor.device} ${sensor.sensor}`}
            onZoom={zoom}
            onPoint={setPoint}
          />
        )}
        {points && <Legend points={points} point={point} series={shown} unit={sensor.unit} />}
        {points && <WhyEmpty points={points} range={range} last={last.time} onGo={setView} />}
      </div>
    </section>
  );
}

/** What this agent says of a sensor, if that is one of its own. */
function useDeviceSensor({ device, sensor }: Sensor): DeviceSensor | undefined {
  const { status } = useShared();
  const found = status.value?.devices?.find(({ name }) => name === device);
  return found?.sensors.find(({ name }) => name === sensor);
}

function Spans({
  view,
  onChoose,
}: {
  view: Range | number;
  onChoose: (view: Range | number) => void;
}) {
  return (
    <div class="segments" role="group" aria-label="How much time is shown">
      {SPANS.map(([name, length]) => (
        <button
          key={name}
          type="button"
          aria-pressed={view === length}
          onClick={() => onChoose(length)}
        >
          {name}
        </button>
      ))}
    </div>
  );
}

function WhyEmpty({
  points,
  range: { from, to },
  last,
  onGo,
}: {
  points: Drawn;
  range: Range;
  last: number | null;
  onGo: (view: Range) => void;
}) {
  const seen = points.time.flatMap((time, index) => (time >= from && time <= to ? [index] : []));
  if (seen.some((index) => points.mean[index] !== null)) return null;
  if (seen.some((index) => points.count[index])) {
    return <Empty title="Texts make no line; save them as CSV" />;
  }
  const span = to - from;
  return (
    <Empty title="No readings in this time">
      {last !== null && (
        <button
          type="button"
          onClick={() => onGo({ from: last - span * 0.9, to: last + span * 0.1 })}
        >
          Show the last ones, of {at(last)}
        </button>
      )}
    </Empty>
  );
}

function Legend({
  points,
  point,
  series,
  unit,
}: {
  points: Drawn;
  point: number | null;
  series: Series | undefined;
  unit: string | null;
}) {
  const has = (flag: number) => points.flags.some((each) => each & flag);
  const mean = point === null ? null : (points.mean[point] ?? null);
  return (
    <div class="legend">
      {point !== null && mean !== null ? (
        <span>{describe(points, point, symbol(unit))}</span>
      ) : (
        <>
          <span>
            <i class="key mean" />
            {series?.bucket_ms ? "mean, and the least to the greatest" : "each reading"}
            {series?.sampled && ", of a sample"}
          </span>
          {(series?.gaps.length ?? 0) > 0 && (
            <span>
              <i class="key gap" />
              no readings
            </span>
          )}
          {has(FLAGS.corrected | FLAGS.unset) && (
            <span>
              <i class="key corrected" />
              time corrected, or the clock was not set
            </span>
          )}
          {has(FLAGS.doubtful) && (
            <span>
              <i class="key doubtful" />
              quality not good
            </span>
          )}
        </>
      )}
    </div>
  );
}

function describe(points: Drawn, index: number, unit: string): string {
  const number = points.count[index] ?? 0;
  const mean = `${at(points.time[index] ?? null)}: ${measure(points.mean[index])} ${unit}`;
  if (number <= 1) return mean;
  const [least, most] = [measure(points.min[index]), measure(points.max[index])];
  return `${mean} (${least} to ${most}, ${many(number, "reading")})`;
}

function seriesPath(db: string, { device, sensor }: Sensor, range: Range): string {
  return inDb(db, ["_series"], { device, sensor, ...times(range), points: MOST_POINTS });
}

function csvPath(db: string, { device, sensor }: Sensor, range: Range): string {
  return inDb(db, ["_series"], { device, sensor, ...times(range), format: "csv" });
}

function times({ from, to }: Range): { start: string; end: string } {
  return { start: new Date(from).toISOString(), end: new Date(to).toISOString() };
}
