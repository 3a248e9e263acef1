/** One sensor over time: the mean, between the least and the greatest of each stretch of time. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { type Drawn, FLAGS, ranges } from "./series";
import { measure } from "./text";
import { isDark, onTheme } from "./theme";

export interface Range {
  readonly from: number;
  readonly to: number;
}

const SECOND = 1000;
const HOUR = 3600 * SECOND;
const DAY = 24 * HOUR;
const DATE = "\n{D} {MMM}";
/** How times are written below the plot, by the least distance between two of them: on the first
 * line always, on the second where a year or a day begins (see uPlot's documentation). */
const TIMES: (number | string | null)[][] = [
  [365 * DAY, "{YYYY}", null, null, null, null, null, null, 1],
  [28 * DAY, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [DAY, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60 * SECOND, "{HH}:{mm}", DATE, null, DATE, null, null, null, 1],
  [SECOND, "{HH}:{mm}:{ss}", DATE, null, DATE, null, null, null, 1],
  [1, "{mm}:{ss}.{fff}", DATE, null, DATE, null, null, null, 1],
];
const STRIP = 5; // pixels of the marks at the bottom
const PHONE = 860;

interface Props {
  readonly points: Drawn;
  readonly gaps: readonly (readonly [number, number])[];
  readonly range: Range;
  readonly label: string;
  readonly onZoom: (range: Range) => void;
  readonly onPoint: (index: number | null) => void;
}

export function Plot(props: Props) {
  const element = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  // What the plot reads when it draws, which is not when this is rendered.
  const latest = useRef(props);
  latest.current = props;

  useEffect(() => {
    const place = element.current;
    if (!place) return undefined;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(place, latest), data(latest.current.points), place);
    };
    make();
    const sizes = new ResizeObserver(() => plot.current?.setSize(size(place)));
    sizes.observe(place);
    const forget = onTheme(make);
    return () => {
      sizes.disconnect();
      forget();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);

  const { points, range } = props;
  useEffect(() => {
    plot.current?.batch(() => {
      plot.current?.setData(data(points), false);
      plot.current?.setScale("x", { min: range.from, max: range.to });
    });
  }, [points, range.from, range.to]);

  const key = (event: KeyboardEvent) => {
    const moved = byKey(event.key, props.range);
    if (!moved) return;
    event.preventDefault();
    props.onZoom(moved);
  };
  return (
    <div
      class="plot"
      ref={element}
      tabIndex={0}
      role="img"
      aria-label={`${props.label}. Arrow keys move in time, plus and minus zoom.`}
      onKeyDown={key}
    />
  );
}

function byKey(key: string, { from, to }: Range): Range | null {
  const span = to - from;
  if (key === "ArrowLeft") return { from: from - span / 4, to: to - span / 4 };
  if (key === "ArrowRight") return { from: from + span / 4, to: to + span / 4 };
  if (key === "+") return { from: from + span / 4, to: to - span / 4 };
  if (key === "-") return { from: from - span / 2, to: to + span / 2 };
  return null;
}

function data(points: Drawn): uPlot.AlignedData {
  return [points.time, points.min, points.max, points.mean];
}

function size(place: HTMLElement): { width: number; height: number } {
  return { width: place.clientWidth, height: innerWidth < PHONE ? 240 : 320 };
}

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(place: HTMLElement, latest: { readonly current: Props }): uPlot.Options {
  const accent = colour("--accent");
  const quiet = colour("--quiet");
  const line = colour("--line");
  const axis: uPlot.Axis = {
    stroke: quiet,
    font: "12px system-ui, sans-serif",
    grid: { stroke: line, width: 1 },
    ticks: { stroke: line, width: 1 },
  };
  const unseen: uPlot.Series = { stroke: "transparent", points: { show: false } };
  return {
    ...size(place),
    ms: 1,
    legend: { show: false },
    padding: [10, 24, 0, 0],
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      points: { show: true, size: 7 },
      // Zooming is the page's: it has to ask for finer data.
      bind: { dblclick: () => null },
    },
    scales: {
      x: { time: true },
      y: { range: (_, min, max) => roomy(min, max) },
    },
    axes: [
      { ...axis, values: TIMES as uPlot.Axis.Values, space: () => (innerWidth < PHONE ? 40 : 72) },
      { ...axis, size: 58, values: (_, values) => values.map(measure) },
    ],
    series: [
      {},
      unseen,
      unseen,
      {
        stroke: accent,
        width: 1.75,
        points: { show: (self, _, first, last) => last - first < self.bbox.width / 24, size: 5 },
      },
    ],
    bands: [{ series: [2, 1], fill: accent + (isDark() ? "38" : "2b") }],
    hooks: {
      drawClear: [
        (self) => {
          const { gaps } = latest.current;
          fill(self, gaps, colour("--shade"), self.bbox.top, self.bbox.height);
        },
      ],
      draw: [
        (self) => {
          const bottom = self.bbox.top + self.bbox.height;
          const strip = STRIP * devicePixelRatio;
          const { points } = latest.current;
          const corrected = ranges(points, FLAGS.corrected | FLAGS.unset);
          fill(self, corrected, colour("--corrected"), bottom - strip, strip);
          const doubtful = ranges(points, FLAGS.doubtful);
          fill(self, doubtful, colour("--warning"), bottom - 2 * strip - 2, strip);
        },
      ],
      setSelect: [
        (self) => {
          const { left, width } = self.select;
          if (width > 4) {
            latest.current.onZoom({
              from: self.posToVal(left, "x"),
              to: self.posToVal(left + width, "x"),
            });
          }
          self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
      setCursor: [(self) => latest.current.onPoint(self.cursor.idx ?? null)],
    },
  };
}

/** Some room above and below; a line that is level stands in the middle. */
function roomy(min: number | null, max: number | null): [number, number] {
  if (min === null || max === null) return [0, 1];
  const room = (max - min) * 0.08 || Math.abs(max) * 0.02 || 1;
  return [min - room, max + room];
}

function fill(
  self: uPlot,
  parts: readonly (readonly [number, number])[],
  style: string,
  top: number,
  height: number,
): void {
  const { ctx, bbox } = self;
  ctx.save();
  ctx.fillStyle = style;
  for (const [from, to] of parts) {
    const left = Math.max(self.valToPos(from, "x", true), bbox.left);
    const right = Math.min(self.valToPos(to, "x", true), bbox.left + bbox.width);
    if (right >= left) ctx.fillRect(left, top, Math.max(right - left, 2), height);
  }
  ctx.restore();
}
