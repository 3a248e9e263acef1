// Answers for the dashboard's json.ts: one JSON array of texts a line, one answer a line.
//     node json_text.mjs JSON_MODULE
import { createInterface } from "node:readline";

const { parse, format, line, same, differences, withValue } = await import(process.argv[2]);

/** The changes from `base` to `mine`, put on top of `theirs`. */
function onTop(base, theirs, mine) {
  const fields = differences([base, theirs, mine]);
  const changed = fields.filter(({ values: [before, , own] }) => !same(before, own));
  return changed.reduce((doc, { path, values }) => withValue(doc, path, values[2]), theirs);
}

for await (const text of createInterface({ input: process.stdin })) {
  const [what, ...texts] = JSON.parse(text);
  const [one, two, three] = texts.map(parse);
  const answers = {
    format: () => format(one),
    line: () => line(one),
    same: () => String(same(one, two)),
    onTop: () => line(onTop(one, two, three)),
  };
  console.log(JSON.stringify(answers[what]()));
}
