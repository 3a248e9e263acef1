/** What a sensor says from now on, and that its device's settings have changed. */

import { useEffect, useState } from "preact/hooks";
import { follow } from "./api";
import { type Point, pointOf } from "./series";
import type { Sensor } from "./status";
import { parseTime } from "./text";

type Doc = Readonly<Record<string, unknown>>;

export interface Last {
  readonly time: number | null;
  readonly value: unknown;
  readonly quality: string | null;
}

export interface Live {
  readonly tail: readonly Point[];
  readonly last: Last | null;
  readonly connected: boolean;
  /** How often a connection was made: nothing is known of the time before each. */
  readonly connections: number;
  /** How often the device's document has changed. */
  readonly settings: number;
}

const LONGEST_TAIL = 5000;
const NOTHING: Live = { tail: [], last: null, connected: false, connections: 0, settings: 0 };

/**
 * One feed for all of it, since a browser has few connections to a server, for all its pages.
 * Drawn at most once a frame, however many readings come.
 */
export function useLive(db: string | null, device: string, sensor: string): Live {
  const [live, setLive] = useState(NOTHING);
  useEffect(() => {
    setLive(NOTHING);
    if (db === null || !device) return undefined;
    const abort = new AbortController();
    let waiting: Doc[] = [];
    const take = () => {
      const docs = waiting;
      waiting = [];
      if (!abort.signal.aborted) setLive((before) => after(before, docs));
    };
    const selector = {
      device,
      $or: [{ type: { $in: ["reading", "readings"] }, sensor }, { type: "device" }],
    };
    void follow(
      db,
      selector,
      ({ doc, deleted }) => {
        if (!doc || deleted) return;
        if (!waiting.length) requestAnimationFrame(take);
        waiting.push(...unpacked(doc));
      },
      (connected) =>
        setLive((before) => ({
          ...before,
          connected,
          connections: before.connections + Number(connected),
        })),
      abort.signal,
    );
    return () => abort.abort();
  }, [db, device, sensor]);
  return live;
}

function after(before: Live, docs: readonly Doc[]): Live {
  const readings = docs.filter((doc) => doc["type"] !== "device");
  const points = readings.map(pointOf).filter((each) => each !== null);
  return {
    ...before,
    settings: before.settings + docs.length - readings.length,
    tail: [...before.tail, ...points].slice(-LONGEST_TAIL),
    last: readings.map(lastOf).reduce(later, before.last),
  };
}

function lastOf(doc: Doc): Last {
  const quality = (doc["quality"] as string | undefined) ?? null;
  return { time: parseTime(doc["time"]), value: doc["value"], quality };
}

/** What a sensor said last, as far as either knows that. */
export function newest(sensor: Sensor, live: Live | null): Last {
  const listed = {
    time: parseTime(sensor.last_time),
    value: sensor.last_value,
    quality: sensor.quality,
  };
  return live?.last ? later(listed, live.last) : listed;
}

/** An old reading comes again when its time is corrected. */
function later(one: Last | null, other: Last): Last {
  return one && (one.time ?? 0) > (other.time ?? 0) ? one : other;
}

/** The readings of a window of a fast sensor; a reading itself. */
function unpacked(doc: Doc): Doc[] {
  const columns = doc["columns"] as { time?: number[]; value?: unknown[] } | undefined;
  if (doc["type"] !== "readings" || !columns?.value) return [doc];
  const start = Date.parse(String(doc["time"]));
  return columns.value.map((value, index) => ({
    ...doc,
    value,
    time: new Date(start + (columns.time?.[index] ?? 0) / 1000).toISOString(),
  }));
}
