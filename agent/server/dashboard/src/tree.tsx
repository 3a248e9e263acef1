/** A document's revisions as a drawing: from the first on the left to the leaves on the right. */

import { shown } from "./json";

export interface Leaf {
  readonly _rev: string;
  readonly _deleted?: boolean;
  readonly _revisions?: { readonly start: number; readonly ids: readonly string[] };
}

interface Node {
  readonly rev: string;
  readonly x: number;
  readonly y: number;
  readonly kind: "" | "leaf" | "winner" | "deleted";
  /** How many revisions between this one and the one before are not drawn. */
  readonly left: number;
  readonly before: Node | null;
}

const STEP_X = 132;
const STEP_Y = 46;
const MARGIN = 24;
const RADIUS = 7;
const SHORT = 6; // letters of a hash
const LEAST_LEFT_OUT = 3;

export function RevisionTree({
  leaves,
  href,
}: {
  leaves: readonly Leaf[];
  href: (rev: string) => string;
}) {
  const nodes = layout(leaves);
  const width = Math.max(...nodes.map(({ x }) => x)) + 100;
  const height = Math.max(...nodes.map(({ y }) => y)) + MARGIN + 12;
  return (
    <div
      class="tree card"
      tabIndex={0}
      role="group"
      aria-label={`Revision tree, ${leaves.length} at the ends`}
    >
      <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`}>
        {nodes.map((node) => node.before && <Edge key={node.rev} from={node.before} to={node} />)}
        {nodes.map((node) => (
          <g key={node.rev}>
            <title>{shown(`${node.rev}${node.kind && ` (${node.kind})`}`)}</title>
            <circle class={`node ${node.kind}`} cx={node.x} cy={node.y} r={RADIUS} />
            {node.kind && node.kind !== "deleted" ? (
              <a href={href(node.rev)} aria-label={`${labelOf(node.rev)}, ${node.kind}`}>
                <Label node={node} />
              </a>
            ) : (
              <Label node={node} />
            )}
          </g>
        ))}
      </svg>
      <p class="legend">
        <span>
          <i class="key winner" />
          the winner
        </span>
        {nodes.some(({ kind }) => kind === "leaf") && (
          <span>
            <i class="key doubtful" />
            conflicts with it
          </span>
        )}
        {nodes.some(({ kind }) => kind === "deleted") && (
          <span>
            <i class="key deleted" />
            deleted
          </span>
        )}
      </p>
    </div>
  );
}

function Label({ node: { rev, x, y } }: { node: Node }) {
  return (
    <text x={x} y={y + 22} text-anchor="middle">
      {labelOf(rev)}
    </text>
  );
}

function labelOf(rev: string): string {
  const [generation, hash] = split(rev);
  return shown(`${generation}-${hash.slice(0, SHORT)}`);
}

function Edge({ from, to }: { from: Node; to: Node }) {
  const middle = (from.x + to.x) / 2;
  return (
    <>
      <path
        class="edge"
        stroke-dasharray={to.left ? "3 4" : undefined}
        d={`M${from.x + RADIUS} ${from.y}C${middle} ${from.y} ${middle} ${to.y} ${to.x - RADIUS} ${to.y}`}
      />
      {to.left > 0 && (
        <text x={middle} y={(from.y + to.y) / 2 - 6} text-anchor="middle">
          {to.left} more
        </text>
      )}
    </>
  );
}

function split(rev: string): [string, string] {
  const dash = rev.indexOf("-");
  return [rev.slice(0, dash), rev.slice(dash + 1)];
}

/** The leaves in CouchDB's order: live before deleted, then the highest generation, then hash. */
function ordered(leaves: readonly Leaf[]): Leaf[] {
  return [...leaves].sort((one, other) => {
    const [oneGeneration, oneHash] = split(one._rev);
    const [otherGeneration, otherHash] = split(other._rev);
    return (
      Number(one._deleted ?? false) - Number(other._deleted ?? false) ||
      Number(otherGeneration) - Number(oneGeneration) ||
      (oneHash < otherHash ? 1 : -1)
    );
  });
}

/** Each leaf has a line of its own; long stretches without a branch are left out. */
function layout(leaves: readonly Leaf[]): Node[] {
  const histories = ordered(leaves).map((leaf) => {
    const { start, ids } = leaf._revisions ?? { start: 0, ids: [] };
    const revs = ids.map((id, index) => `${start - index}-${id}`).reverse();
    return { leaf, revs: revs.length ? revs : [leaf._rev] };
  });
  const children = new Map<string, Set<string>>();
  for (const { revs } of histories) {
    revs.forEach((rev, index) => {
      const next = revs[index + 1];
      if (next === undefined) return;
      const known = children.get(rev) ?? new Set();
      children.set(rev, known.add(next));
    });
  }
  const made = new Map<string, Node>();
  histories.forEach(({ leaf, revs }, line) => {
    let before: Node | null = null;
    let left = 0;
    for (const [index, rev] of revs.entries()) {
      const known = made.get(rev);
      if (known) {
        before = known;
        left = 0;
        continue;
      }
      const isEnd = index === 0 || index === revs.length - 1;
      const branches = (children.get(rev)?.size ?? 0) > 1;
      const rest = runLength(revs, index, children);
      if (!isEnd && !branches && (left > 0 || rest >= LEAST_LEFT_OUT) && rest > 0) {
        left += 1;
        continue;
      }
      const isLeaf = rev === leaf._rev;
      const node: Node = {
        rev,
        x: before ? before.x + STEP_X : MARGIN + 30,
        y: MARGIN + line * STEP_Y,
        kind: !isLeaf ? "" : leaf._deleted ? "deleted" : line === 0 ? "winner" : "leaf",
        left,
        before,
      };
      made.set(rev, node);
      before = node;
      left = 0;
    }
  });
  return [...made.values()];
}

/** How many revisions from here on, without the leaf, have one child only. */
function runLength(
  revs: readonly string[],
  from: number,
  children: ReadonlyMap<string, ReadonlySet<string>>,
): number {
  let at = from;
  while (at < revs.length - 1 && children.get(revs[at] ?? "")?.size === 1) at += 1;
  return at - from;
}
