/** Tables of things and their figures, whose rows become blocks where a screen is narrow. */

import type { ComponentChildren } from "preact";

/** `columns` have texts; `numbers` follow them, and `after` those texts again. */
export function Table({
  label,
  columns,
  numbers,
  after = [],
  children,
}: {
  label: string;
  columns: readonly string[];
  numbers: readonly string[];
  after?: readonly string[];
  children: ComponentChildren;
}) {
  const text = (name: string) => <th key={name}>{name}</th>;
  return (
    <div class="card scrolls" tabIndex={0} role="region" aria-label={label}>
      <table class="stacks">
        <thead>
          <tr>
            {columns.map(text)}
            {numbers.map((name) => (
              <th key={name} class="number">
                {name}
              </th>
            ))}
            {after.map(text)}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** A number in the column `of`, whose name stands beside it where there is no head. */
export function Figure({ of, children }: { of: string; children: ComponentChildren }) {
  return (
    <td class="number" data-label={of}>
      {children}
    </td>
  );
}
