// Shapes of virtual detectors: their numbers, what of them can be grabbed, how they are drawn, and which pixels they take
// (docs/reductions.md). Everything is in detector pixels, whose centres lie at whole numbers; angles run clockwise on the
// screen from +x.

import type { Reduction } from "./api";

export type Place = [y: number, x: number];
export type Numbers = Record<string, number>;
export type Detector = Reduction & { kind: string };

interface Shape {
  // Numbers to be typed, with their labels.
  numbers: [key: string, label: string][];
  // What can be grabbed, and the numbers that go with it.
  parts: Record<string, string[]>;
  // Where the handle of a part may be, the best place first; nowhere if it has none. `px` is a pixel of the screen.
  places(n: Numbers, part: string, px: number): Place[];
  // The line of a part, as SVG path; parts without one are grabbed by their handle alone.
  edge(n: Numbers, part: string): string;
  // What is inside, as SVG path (even-odd).
  area(n: Numbers): string;
  // The weight of a pixel.
  weight(n: Numbers, y: number, x: number): number;
}

const RADIANS = Math.PI / 180;
const polar = (n: Numbers, r: number, deg: number): Place => [n.cy! + r * Math.sin(deg * RADIANS), n.cx! + r * Math.cos(deg * RADIANS)];
const distance = (n: Numbers, y: number, x: number) => Math.hypot(y - n.cy!, x - n.cx!);
const circle = (n: Numbers, r: number) => `M${n.cx! - r} ${n.cy!}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
const box = (y0: number, x0: number, y1: number, x1: number) => `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
// A ramp of one pixel at each radius.
const soft = (r: number, inner: number, outer: number) => Math.min(1, Math.max(0, (outer - inner) / 2 + 0.5 - Math.abs(r - (inner + outer) / 2)));
// To the right if that can be seen, else around the circle by quarters, then eighths. The inner edge begins an eighth further,
// so that thin rings can be held.
const around = (n: Numbers, r: number, first: number) => [0, 2, 4, 6, 1, 3, 5, 7].map((eighth) => polar(n, r, (eighth + first) * 45));

function arc(n: Numbers, r: number, from: number, to: number, start: "M" | "L"): string {
  const [[y0, x0], [y1, x1]] = [polar(n, r, from), polar(n, r, to)];
  const [ym, xm] = polar(n, r, (from + to) / 2); // In two halves: an arc of 360 degrees would be none.
  const sweep = to > from ? 1 : 0;
  return `${start}${x0} ${y0}A${r} ${r} 0 0 ${sweep} ${xm} ${ym}A${r} ${r} 0 0 ${sweep} ${x1} ${y1}`;
}

const disk: Shape = {
  numbers: [["cy", "y"], ["cx", "x"], ["radius", "r"]],
  parts: { centre: ["cy", "cx"], radius: ["radius"] },
  places: (n, part) => (part === "centre" ? [[n.cy!, n.cx!]] : around(n, n.radius!, 0)),
  edge: (n, part) => (part === "radius" ? circle(n, n.radius!) : ""),
  area: (n) => circle(n, n.radius!),
  weight: (n, y, x) => (distance(n, y, x) <= n.radius! ? 1 : 0),
};

// A disk without extent: the pixel at its centre.
const point: Shape = {
  ...disk,
  parts: { centre: ["cy", "cx"] },
  edge: () => "",
  area: (n) => box(n.cy! - 0.5, n.cx! - 0.5, n.cy! + 0.5, n.cx! + 0.5),
};

const ring: Shape = {
  numbers: [["cy", "y"], ["cx", "x"], ["inner", "in"], ["outer", "out"]],
  parts: { centre: ["cy", "cx"], inner: ["inner"], outer: ["outer"] },
  places: (n, part) => (part === "centre" ? [[n.cy!, n.cx!]] : around(n, n[part]!, part === "inner" ? 1 : 0)),
  edge: (n, part) => (part === "centre" ? "" : circle(n, n[part]!)),
  area: (n) => circle(n, n.inner!) + circle(n, n.outer!),
  weight: (n, y, x) => {
    const r = distance(n, y, x);
    return n.inner! < r && r <= n.outer! ? 1 : 0;
  },
};

const sector: Shape = {
  numbers: [...ring.numbers, ["from_deg", "from"], ["to_deg", "to"]],
  parts: { ...ring.parts, from_deg: ["from_deg"], to_deg: ["to_deg"] },
  places: (n, part, px) => {
    const parts = [0.5, 0.3, 0.7, 0.15, 0.85];
    if (part === "centre") return [[n.cy!, n.cx!]];
    if (part.endsWith("deg")) return parts.map((t) => polar(n, n.inner! + (n.outer! - n.inner!) * t, n[part]!));
    // The inner edge of a pie lies at the centre: its handle is held off it.
    const r = part === "inner" ? Math.max(n.inner!, 22 * px) : n.outer!;
    return parts.map((t) => polar(n, r, n.from_deg! + (n.to_deg! - n.from_deg!) * t));
  },
  edge: (n, part) => {
    if (part === "centre") return "";
    if (!part.endsWith("deg")) return arc(n, n[part]!, n.from_deg!, n.to_deg!, "M");
    const [[y0, x0], [y1, x1]] = [polar(n, n.inner!, n[part]!), polar(n, n.outer!, n[part]!)];
    return `M${x0} ${y0}L${x1} ${y1}`;
  },
  area: (n) => `${arc(n, n.outer!, n.from_deg!, n.to_deg!, "M")}${arc(n, n.inner!, n.to_deg!, n.from_deg!, "L")}Z`,
  weight: (n, y, x) => {
    const turned = Math.atan2(y - n.cy!, x - n.cx!) / RADIANS - n.from_deg!;
    const isWithin = turned - 360 * Math.floor(turned / 360) < n.to_deg! - n.from_deg!;
    return isWithin ? ring.weight(n, y, x) : 0;
  },
};

// Rows y0 up to, without, y1; columns likewise. On the screen pixels reach half a pixel around their centres.
const rectangle: Shape = {
  numbers: [["y0", "y"], ["x0", "x"], ["y1", "to"], ["x1", ","]],
  parts: { centre: ["y0", "x0", "y1", "x1"], y0: ["y0"], x1: ["x1"], y1: ["y1"], x0: ["x0"], y0x0: ["y0", "x0"], y0x1: ["y0", "x1"], y1x0: ["y1", "x0"], y1x1: ["y1", "x1"] },
  places: (n, part, px) => {
    // Of a short side only the line can be grabbed: its handle would hide the corners.
    const isShort = part.startsWith("y") ? n.x1! - n.x0! < 40 * px : n.y1! - n.y0! < 40 * px;
    if (part.length === 2 && isShort) return [];
    const y = part.includes("y0") ? n.y0! : part.includes("y1") ? n.y1! : (n.y0! + n.y1!) / 2;
    const x = part.includes("x0") ? n.x0! : part.includes("x1") ? n.x1! : (n.x0! + n.x1!) / 2;
    return [[y - 0.5, x - 0.5]];
  },
  edge: (n, part) => {
    const [y0, x0, y1, x1] = [n.y0! - 0.5, n.x0! - 0.5, n.y1! - 0.5, n.x1! - 0.5];
    const lines: Record<string, string> = { y0: `M${x0} ${y0}H${x1}`, y1: `M${x0} ${y1}H${x1}`, x0: `M${x0} ${y0}V${y1}`, x1: `M${x1} ${y0}V${y1}` };
    return lines[part] ?? "";
  },
  area: (n) => box(n.y0! - 0.5, n.x0! - 0.5, n.y1! - 0.5, n.x1! - 0.5),
  weight: (n, y, x) => (n.y0! <= y && y < n.y1! && n.x0! <= x && x < n.x1! ? 1 : 0),
};

const SHAPES: Record<string, Shape> = {
  disk,
  ring,
  disk_aa: { ...disk, weight: (n, y, x) => soft(distance(n, y, x), 0, n.radius!) },
  ring_aa: { ...ring, weight: (n, y, x) => soft(distance(n, y, x), n.inner!, n.outer!) },
  sector,
  rectangle,
};

const numbers = (detector: Detector) => detector as unknown as Numbers;
const shape = (detector: Detector): Shape => (isPoint(detector) ? point : SHAPES[detector.kind]!);

export function isPoint(detector: Reduction): boolean {
  return detector.kind === "disk" && detector.radius === 0;
}

// Whether it can be changed by hand.
export function isShape(reduction: Reduction): reduction is Detector {
  return (reduction.kind ?? "") in SHAPES;
}

function vertices(reduction: Reduction): Place[] {
  return reduction.kind === "polygon" ? (reduction.vertices as Place[]) : [];
}

// Whether it lies on the pattern: what can be changed by hand, and polygons.
export function isDrawn(reduction: Reduction): reduction is Detector {
  return isShape(reduction) || vertices(reduction).length > 0;
}

export function word(detector: Detector): string {
  return isPoint(detector) ? "point" : detector.kind.replace("_aa", " soft");
}

// Its kind and numbers in one line.
export function inWords(detector: Detector): string {
  const numbers = typed(detector).map(([key, label]) => `${label} ${String(detector[key])}${key.endsWith("deg") ? "°" : ""}`);
  return [word(detector), ...numbers].join("  ");
}

export function typed(detector: Detector): [key: string, label: string][] {
  return isShape(detector) ? shape(detector).numbers : [];
}

export function parts(detector: Detector): string[] {
  return isShape(detector) ? Object.keys(shape(detector).parts) : [];
}

export function places(detector: Detector, part: string, px: number): Place[] {
  return shape(detector).places(numbers(detector), part, px);
}

export function edge(detector: Detector, part: string): string {
  return shape(detector).edge(numbers(detector), part);
}

export function area(detector: Detector): string {
  if (isShape(detector)) return shape(detector).area(numbers(detector));
  return `M${vertices(detector).map(([y, x]) => `${x} ${y}`).join("L")}Z`;
}

// Where its name goes: above the middle of its top.
export function top(detector: Detector): Place {
  const n = numbers(detector);
  if (detector.kind === "rectangle") return [n.y0! - 0.5, (n.x0! + n.x1!) / 2 - 0.5];
  const highest = (places: Place[]) => places.reduce((best, place) => (place[0] < best[0] ? place : best));
  if (vertices(detector).length > 0) return highest(vertices(detector));
  if (detector.kind === "sector") return highest([0, 0.25, 0.5, 0.75, 1].map((t) => polar(n, n.outer!, n.from_deg! + (n.to_deg! - n.from_deg!) * t)));
  return [n.cy! - (n.outer ?? n.radius)!, n.cx!];
}

// Where distances and angles are measured from.
export function centre(detector: Detector): Place | undefined {
  return typeof detector.cy === "number" && typeof detector.cx === "number" ? [detector.cy, detector.cx] : undefined;
}

// The sum over what it takes of a pattern; pixels without a value count as 0.
export function total(detector: Detector, { height, width, values }: { height: number; width: number; values: Float32Array }): number {
  const weigh = isShape(detector) ? shape(detector).weight : insidePolygon(vertices(detector));
  const n = numbers(detector);
  let sum = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = values[y * width + x]!;
      if (value === value) sum += weigh(n, y, x) * value;
    }
  }
  return sum;
}

// By the even-odd rule: a line to the right crosses an odd number of edges.
function insidePolygon(corners: Place[]): Shape["weight"] {
  return (_, y, x) => {
    let isInside = false;
    corners.forEach(([y1, x1], i) => {
      const [y0, x0] = corners.at(i - 1)!;
      if (y0 > y !== y1 > y && x < x0 + ((y - y0) * (x1 - x0)) / (y1 - y0)) isInside = !isInside;
    });
    return isInside ? 1 : 0;
  };
}

// Gives a detector new numbers, as near to them as its shape allows: tenths of a pixel are finer than any hand, rectangles have
// whole pixels and lie on the detector, a point lies on a pixel.
export function set(detector: Detector, wanted: Numbers, [height, width]: [number, number]): void {
  const n = numbers(detector);
  const keys = Object.keys(wanted);
  if (detector.kind === "rectangle") return setRectangle(n, wanted, height, width);
  for (const key of keys) n[key] = Math.round(wanted[key]! * 10) / 10;
  if (n.radius !== undefined) n.radius = n.radius < 0.5 ? 0 : n.radius;
  if (n.outer !== undefined && keys.includes("outer")) n.outer = Math.max(n.outer, n.inner! + 0.5);
  if (n.inner !== undefined) n.inner = Math.max(0, Math.min(n.inner, n.outer! - 0.5));
  if (n.from_deg !== undefined) setAngles(n, keys);
  if (isPoint(detector)) [n.cy, n.cx] = [Math.round(n.cy!), Math.round(n.cx!)];
}

// 0 < to - from <= 360, and neither runs away with the turns of a hand.
function setAngles(n: Numbers, keys: string[]): void {
  const span = ((n.to_deg! - n.from_deg!) % 360 + 360) % 360;
  const from = keys.includes("from_deg") && keys.length === 1 ? n.to_deg! - span : n.from_deg!;
  const turns = 360 * Math.floor((from + 180) / 360);
  n.from_deg = Math.round((from - turns) * 10) / 10;
  n.to_deg = Math.round((n.from_deg + (span === 0 ? 360 : span)) * 10) / 10;
}

function setRectangle(n: Numbers, wanted: Numbers, height: number, width: number): void {
  for (const [low, high, extent] of [["y0", "y1", height], ["x0", "x1", width]] as const) {
    const [from, to] = [Math.round(wanted[low] ?? n[low]!), Math.round(wanted[high] ?? n[high]!)];
    if (low in wanted && high in wanted) {
      const size = Math.min(n[high]! - n[low]!, extent);
      n[low] = Math.min(Math.max(0, from), extent - size);
      n[high] = n[low] + size;
    } else if (low in wanted) n[low] = Math.min(Math.max(0, from), n[high]! - 1);
    else if (high in wanted) n[high] = Math.max(Math.min(extent, to), n[low]! + 1);
  }
}

// The numbers of a part that was grabbed at one place and dragged to another; `start` is the detector as it was grabbed.
export function dragged(start: Detector, part: string, from: Place, to: Place): Numbers {
  const n = numbers(start);
  const further = distance(n, ...to) - distance(n, ...from);
  const angle = ([y, x]: Place) => Math.atan2(y - n.cy!, x - n.cx!) / RADIANS;
  return moved(start, part, (key) => {
    if (key.endsWith("deg")) return angle(to) - angle(from);
    if (key.includes("y")) return to[0] - from[0];
    if (key.includes("x")) return to[1] - from[1];
    return key === "radius" ? Math.max(further, 0.5 - n.radius!) : further; // No hand makes a disk a point.
  });
}

// The numbers of a part after arrow keys: a pixel, or a degree, for each step; what has no direction grows to the right and up.
export function nudged(start: Detector, part: string, dy: number, dx: number): Numbers {
  return moved(start, part, (key) => {
    if (key.endsWith("deg") || ["radius", "inner", "outer"].includes(key)) return dx - dy;
    return key.includes("y") ? dy : dx;
  });
}

function moved(start: Detector, part: string, by: (key: string) => number): Numbers {
  const keys = shape(start).parts[part] ?? [];
  return Object.fromEntries(keys.map((key) => [key, numbers(start)[key]! + by(key)]));
}

// A new detector of a size that can be seen and grabbed, about the centre of another one or the middle.
export function fresh(kind: string, name: string, [height, width]: [number, number], about: Place | undefined): Detector {
  const [cy, cx] = about ?? [height / 2, width / 2];
  const size = Math.max(1, Math.min(height, width));
  const radii = { inner: size / 5, outer: size / 3 };
  const made: Record<string, Numbers> = {
    point: { cy, cx, radius: 0 },
    disk: { cy, cx, radius: size / 8 },
    ring: { cy, cx, ...radii },
    sector: { cy, cx, ...radii, from_deg: -30, to_deg: 60 },
    rectangle: { y0: height * 0.4, x0: width * 0.4, y1: height * 0.6 + 1, x1: width * 0.6 + 1 },
  };
  const whole = { y0: 0, x0: 0, y1: height, x1: width };
  const detector = { name, kind: kind === "point" ? "disk" : kind, ...(kind === "rectangle" ? whole : made[kind]) } as Detector;
  for (const [key, value] of Object.entries(made[kind]!)) set(detector, { [key]: value }, [height, width]);
  return detector;
}
