/**
 * JSON as it was written. Documents are edited and merged here without changing what nobody
 * touched: a number keeps all its digits, and a member may be called `__proto__`.
 */

export type Json =
  | { readonly kind: "object"; readonly members: ReadonlyMap<string, Json> }
  | { readonly kind: "array"; readonly items: readonly Json[] }
  | { readonly kind: "atom"; readonly text: string };

const WIDTH = 80;
// Letters that turn text around or hide in it; in JSON they may be written as escapes.
const UNSEEN = /[\u0080-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const BLANKS = /\s*/y;
const WORD = /[^\s{}[\],:"]+/y; // a number, true, false or null

/** Throws SyntaxError for what is no JSON, RangeError for what is nested too deeply. */
export function parse(text: string): Json {
  JSON.parse(text); // says better than we could what is wrong, and where
  let at = 0;

  function next(): string {
    BLANKS.lastIndex = at;
    BLANKS.test(text);
    const start = BLANKS.lastIndex;
    at = text[start] === '"' ? endOfString(text, start) : endOfWord(text, start);
    return text.slice(start, at);
  }

  function value(token: string): Json {
    if (token === "{") return object();
    if (token === "[") return array();
    return { kind: "atom", text: token };
  }

  function object(): Json {
    const members = new Map<string, Json>();
    for (let token = next(); token !== "}"; token = next()) {
      if (token === ",") token = next();
      next(); // the colon
      members.set(JSON.parse(token) as string, value(next()));
    }
    return { kind: "object", members };
  }

  function array(): Json {
    const items: Json[] = [];
    for (let token = next(); token !== "]"; token = next()) {
      items.push(value(token === "," ? next() : token));
    }
    return { kind: "array", items };
  }

  return value(next());
}

// Not by one regular expression: a text may have megabytes.
function endOfString(text: string, start: number): number {
  for (let at = start + 1; ; at += 1) {
    at = text.indexOf('"', at);
    let escapes = 0;
    while (text[at - 1 - escapes] === "\\") escapes += 1;
    if (escapes % 2 === 0) return at + 1;
  }
}

function endOfWord(text: string, start: number): number {
  WORD.lastIndex = start;
  return WORD.test(text) ? WORD.lastIndex : start + 1;
}

/** Indented by two blanks; what is short stays on one line. */
export function format(json: Json, indent = ""): string {
  const short = line(json);
  if (json.kind === "atom" || (short.length + indent.length <= WIDTH && indent !== "")) {
    return short;
  }
  const deeper = `${indent}  `;
  const [open, close, parts] =
    json.kind === "object"
      ? ["{", "}", [...json.members].map(([key, each]) => `${name(key)}: ${format(each, deeper)}`)]
      : ["[", "]", json.items.map((each) => format(each, deeper))];
  if (!parts.length) return open + close;
  return `${open}\n${parts.map((part) => deeper + part).join(",\n")}\n${indent}${close}`;
}

/** On one line. */
export function line(json: Json): string {
  if (json.kind === "atom") return shown(json.text);
  if (json.kind === "array") return `[${json.items.map(line).join(", ")}]`;
  const parts = [...json.members].map(([key, each]) => `${name(key)}: ${line(each)}`);
  return parts.length ? `{ ${parts.join(", ")} }` : "{}";
}

function name(key: string): string {
  return shown(JSON.stringify(key));
}

/** Text with what cannot be seen as \u escapes. */
export function shown(text: string): string {
  return text.replace(
    UNSEEN,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Whether two values mean the same; the order of members does not matter. */
export function same(one: Json | undefined, other: Json | undefined): boolean {
  if (one === undefined || other === undefined) return one === other;
  if (one.kind === "atom" && other.kind === "atom") return meaning(one) === meaning(other);
  if (one.kind === "array" && other.kind === "array") {
    return (
      one.items.length === other.items.length &&
      one.items.every((each, index) => same(each, other.items[index]))
    );
  }
  if (one.kind !== "object" || other.kind !== "object") return false;
  return (
    one.members.size === other.members.size &&
    [...one.members].every(([key, each]) => same(each, other.members.get(key)))
  );
}

function meaning(atom: { text: string }): string {
  return atom.text.startsWith('"') ? JSON.stringify(JSON.parse(atom.text)) : atom.text;
}

/** A copy of an object without its underscore members, which are the server's. */
export function body(json: Json): Json {
  if (json.kind !== "object") return json;
  return {
    kind: "object",
    members: new Map([...json.members].filter(([key]) => !key.startsWith("_"))),
  };
}

export function member(json: Json | undefined, key: string): Json | undefined {
  return json?.kind === "object" ? json.members.get(key) : undefined;
}

/** An array's; none of anything else. */
export function items(json: Json | undefined): readonly Json[] {
  return json?.kind === "array" ? json.items : [];
}

/** A member that is a text; "" if there is none. */
export function text(json: Json | undefined, key: string): string {
  const value = member(json, key);
  return value?.kind === "atom" && value.text.startsWith('"')
    ? (JSON.parse(value.text) as string)
    : "";
}

// --- comparing -----------------------------------------------------------------------

export type Path = readonly string[];

/** A place in documents: what each has there; undefined where it has nothing. */
export interface Field {
  readonly path: Path;
  readonly values: readonly (Json | undefined)[];
}

/**
 * The places at which some of the objects differ. An array is compared as a whole, and so is an
 * object that one of them does not have: to take it out is not to take out each of its members.
 */
export function differences(documents: readonly Json[], path: Path = []): Field[] {
  const objects = documents.map((each) => (each.kind === "object" ? each.members : new Map()));
  const keys = new Set(objects.flatMap((each) => [...(each.keys() as Iterable<string>)]));
  const fields: Field[] = [];
  for (const key of keys) {
    const values = objects.map((each) => each.get(key) as Json | undefined);
    if (values.every((each) => same(each, values[0]))) continue;
    const inner = values.filter((each) => each?.kind === "object");
    if (inner.length === values.length) fields.push(...differences(inner, [...path, key]));
    else fields.push({ path: [...path, key], values });
  }
  return fields;
}

/** A copy of an object with another value, or none, at a path. */
export function withValue(json: Json | undefined, path: Path, value: Json | undefined): Json {
  const members = new Map(json?.kind === "object" ? json.members : []);
  const [key, ...rest] = path;
  if (key === undefined) return json ?? { kind: "object", members };
  const next = rest.length ? withValue(members.get(key), rest, value) : value;
  if (next === undefined) members.delete(key);
  else members.set(key, next);
  return { kind: "object", members };
}
