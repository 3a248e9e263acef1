/** A sensor's course, as `GET /{db}/_series` tells it, with what the changes feed adds at its end. */

export interface Columns {
  readonly time: readonly number[];
  readonly min: readonly (number | null)[];
  readonly max: readonly (number | null)[];
  readonly mean: readonly (number | null)[];
  readonly count: readonly number[];
  readonly flags: readonly number[];
}

export interface Series {
  readonly unit: string | null;
  readonly bucket_ms: number | null;
  readonly columns: Columns;
  readonly gaps: readonly (readonly [number, number])[];
  readonly sampled?: boolean;
}

export const FLAGS = { doubtful: 1, corrected: 2, unset: 4 } as const;

export interface Point {
  readonly time: number;
  readonly value: number;
  readonly flags: number;
}

/** What the plot draws; `null` where the line is broken. */
export interface Drawn {
  readonly time: number[];
  readonly min: (number | null)[];
  readonly max: (number | null)[];
  readonly mean: (number | null)[];
  readonly count: number[];
  readonly flags: number[];
}

/** A reading's document as a point; true is 1, and a text is none. */
export function pointOf(doc: Readonly<Record<string, unknown>>): Point | null {
  const time = Date.parse(String(doc["time"]));
  const value = typeof doc["value"] === "boolean" ? Number(doc["value"]) : doc["value"];
  if (typeof value !== "number" || Number.isNaN(time)) return null;
  const flags =
    (doc["quality"] ? FLAGS.doubtful : 0) |
    (doc["clock"] === "corrected" ? FLAGS.corrected : 0) |
    (doc["clock"] === "unset" ? FLAGS.unset : 0);
  return { time, value, flags };
}

/** The series with the points that are newer than it, broken where there are gaps. */
export function drawn(series: Series, tail: readonly Point[]): Drawn {
  const { time, min, max, mean, count, flags } = series.columns;
  const made: Drawn = { time: [], min: [], max: [], mean: [], count: [], flags: [] };
  let gap = 0;
  time.forEach((moment, index) => {
    let next = series.gaps[gap];
    while (next && next[0] < moment) {
      // Halfway, so that the break is between the points before and after it.
      if (made.time.length)
        add(made, (next[0] + Math.min(next[1], moment)) / 2, null, null, null, 0, 0);
      gap += 1;
      next = series.gaps[gap];
    }
    add(
      made,
      moment,
      min[index] ?? null,
      max[index] ?? null,
      mean[index] ?? null,
      count[index] ?? 0,
      flags[index] ?? 0,
    );
  });
  let last = time.at(-1) ?? -Infinity;
  for (const point of tail) {
    if (point.time <= last) continue;
    add(made, point.time, point.value, point.value, point.value, 1, point.flags);
    last = point.time;
  }
  return made;
}

function add(
  to: Drawn,
  time: number,
  min: number | null,
  max: number | null,
  mean: number | null,
  count: number,
  flags: number,
): void {
  // A gap may end where a point is: the plot needs times in order.
  to.time.push(Math.max(time, to.time.at(-1) ?? time));
  to.min.push(min);
  to.max.push(max);
  to.mean.push(mean);
  to.count.push(count);
  to.flags.push(flags);
}

/** The ranges of time in which points have a flag. */
export function ranges(points: Drawn, flag: number): [number, number][] {
  const found: [number, number][] = [];
  let open: [number, number] | null = null;
  points.time.forEach((time, index) => {
    if ((points.flags[index] ?? 0) & flag) {
      if (open) open[1] = time;
      else found.push((open = [time, time]));
    } else if (points.mean[index] !== null) {
      open = null;
    }
  });
  return found;
}
