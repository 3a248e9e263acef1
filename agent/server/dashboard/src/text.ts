/** Numbers, times and foreign text, as people read them. */

import { shown } from "./json";

const LANGUAGE = undefined; // the browser's
const whole = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 0 });
const threeDigits = new Intl.NumberFormat(LANGUAGE, { maximumSignificantDigits: 3 });
const sixDigits = new Intl.NumberFormat(LANGUAGE, { maximumSignificantDigits: 6 });
const moment = new Intl.DateTimeFormat(LANGUAGE, { dateStyle: "medium", timeStyle: "medium" });

export const NONE = "–";

/** A number that counts things. */
export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? NONE : whole.format(value);
}

/** A number that measures something. */
export function measure(value: unknown): string {
  if (typeof value === "number") return sixDigits.format(value);
  if (typeof value === "string") return shown(value);
  if (value === null || value === undefined) return NONE;
  return shown(JSON.stringify(value));
}

const SYMBOLS: ReadonlyMap<string, string> = new Map([
  ["C", "°C"],
  ["Cel", "°C"],
  ["F", "°F"],
  ["[degF]", "°F"],
  ["deg", "°"],
  ["m2", "m²"],
  ["m3", "m³"],
  ["m/s2", "m/s²"],
  ["ug/m3", "µg/m³"],
  ["Ohm", "Ω"],
]);

/** A unit as it is printed; codes have no symbols in them. */
export function symbol(unit: string | null | undefined): string {
  return unit ? (SYMBOLS.get(unit) ?? shown(unit)) : "";
}

/** So many per second; two digits after the point would pretend too much. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  if (value < 0.01) return "< 0.01";
  return value < 100 ? threeDigits.format(value) : whole.format(value);
}

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes in the unit that suits them. */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < SIZES.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit ? threeDigits.format(size) : whole.format(size)} ${SIZES[unit]}`;
}

/** Seconds as a length of time, to the precision that matters. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  if (seconds < 1) return seconds <= 0 ? "0 s" : "< 1 s";
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${whole.format(Math.round(seconds / 86_400))} days`;
}

/** When something was, seen from now. */
export function ago(time: number | null, now: number): string {
  if (time === null) return "never";
  const seconds = (now - time) / 1000;
  if (seconds < -1.5) return `in ${duration(-seconds)}`;
  return seconds < 1.5 ? "just now" : `${duration(seconds)} ago`;
}

/** Milliseconds since the epoch of an RFC 3339 time; null if it is none. */
export function parseTime(text: unknown): number | null {
  const time = typeof text === "string" ? Date.parse(text) : Number.NaN;
  return Number.isNaN(time) ? null : time;
}

/** A moment in local time. */
export function at(time: number | null): string {
  return time === null ? NONE : moment.format(time);
}

/** "3 conflicts", "1 conflict". */
export function many(number: number, thing: string, things = `${thing}s`): string {
  return `${count(number)} ${number === 1 ? thing : things}`;
}

/** A server's words as a sentence; some have an end already. */
export function sentence(words: string): string {
  const text = shown(words);
  return /[.?!]$/.test(text) ? text : `${text}.`;
}

/** Of those that are known. */
export function sum(numbers: readonly (number | null | undefined)[]): number {
  return numbers.reduce<number>((total, number) => total + (number ?? 0), 0);
}
