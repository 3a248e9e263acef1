// What the programs beside this file share. The npm packages are installed in another folder; the
// hub is in the environment, as JSON in `HUB`.

import { createRequire } from "node:module";
import { test } from "node:test";

export const require = createRequire(new URL("../peers/package.json", import.meta.url));

/** `url` is the hub's; `admin` and `member` have a `name` and a `password` each. */
export const hub = JSON.parse(process.env.HUB);

/** The hub's address with credentials in it, as users write it into a client's settings. */
export function urlFor({ name, password }) {
  return hub.url.replace("//", `//${name}:${encodeURIComponent(password)}@`);
}

/** Documents "0000", "0001" and so on. */
export function numbered(count) {
  return Array.from({ length: count }, (_, n) => ({
    _id: String(n).padStart(4, "0"),
    n,
    even: n % 2 === 0,
  }));
}

/** Bytes that are no text. */
export const content = Buffer.from(Array.from({ length: 100_000 }, (_, n) => n % 251));

/** A test that cannot hang. */
export function check(name, run) {
  test(name, { timeout: 20_000 }, run);
}

/** Resolves when `condition` has become true. */
export async function until(condition) {
  while (!(await condition())) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
