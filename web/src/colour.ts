// Values to colours: contrast limits, stretches and maps. For looking only, never for data.

export type Stretch = "linear" | "sqrt" | "log";
export type MapName = "gray" | "viridis" | "inferno" | "cyclic";

// Okabe and Ito's colours, which most colour-blind people can tell apart; without black, and sky blue first.
export const DETECTOR_COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#4c8fd6"];

// Points of each map at equal steps; colours between them are mixed linearly. Viridis and inferno are matplotlib's, by Smith
// and van der Walt, in the public domain (CC0).
const POINTS: Record<Exclude<MapName, "cyclic">, string[]> = {
  gray: ["#000000", "#ffffff"],
  viridis: ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"],
  inferno: ["#000004", "#160b39", "#420a68", "#6a176e", "#932667", "#bc3754", "#dd513a", "#f37819", "#fca50a", "#f6d746", "#fcffa4"],
};

// 256 colours as RGBA bytes. The cyclic map, for directions, is the one of the receiver's own PNGs: a wheel of steady
// brightness, so that dark can mean short.
export function table(name: MapName): Uint8Array {
  if (name === "cyclic") return wheel();
  const points = POINTS[name].map(rgb);
  const bytes = new Uint8Array(256 * 4);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (points.length - 1);
    const first = Math.min(Math.floor(place), points.length - 2);
    const [low, high] = [points[first]!, points[first + 1]!];
    for (let c = 0; c < 3; c++) bytes[i * 4 + c] = Math.round(low[c]! + (high[c]! - low[c]!) * (place - first));
    bytes[i * 4 + 3] = 255;
  }
  return bytes;
}

function wheel(): Uint8Array {
  const bytes = new Uint8Array(256 * 4).fill(255);
  for (let i = 0; i < 256; i++) {
    for (let c = 0; c < 3; c++) bytes[i * 4 + c] = Math.round((0.5 + 0.4 * Math.cos(2 * Math.PI * (i / 255 - c / 3))) * 255);
  }
  return bytes;
}

export function rgb(hex: string): [number, number, number] {
  const number = parseInt(hex.slice(1), 16);
  return [(number >> 16) & 255, (number >> 8) & 255, number & 255];
}

// A value between the limits as a fraction 0..1, as the shader does it.
export function fraction(value: number, low: number, high: number, stretch: Stretch): number {
  const span = high - low;
  if (!(span > 0)) return 0.5;
  const above = Math.min(Math.max(value - low, 0), span);
  if (stretch === "sqrt") return Math.sqrt(above / span);
  // Of 1000 to 1, whatever the unit: counts and means of counts look alike.
  if (stretch === "log") return Math.log1p((above / span) * 999) / Math.log(1000);
  return above / span;
}

// The value at a fraction between the limits: what `fraction` undoes.
export function value(place: number, low: number, high: number, stretch: Stretch): number {
  const part = stretch === "sqrt" ? place * place : stretch === "log" ? (1000 ** place - 1) / 999 : place;
  return low + (high - low) * part;
}

// What is measured, in ascending order: at most 20,000 values, evenly taken.
export function sorted(values: Float32Array): Float32Array {
  const stride = Math.max(1, Math.ceil(values.length / 20_000));
  const finite: number[] = [];
  for (let i = 0; i < values.length; i += stride) if (Number.isFinite(values[i])) finite.push(values[i]!);
  return Float32Array.from(finite).sort();
}

export function percentile(sorted: Float32Array, part: number): number {
  return sorted[Math.round((sorted.length - 1) * part)] ?? NaN;
}

// The 1st and 99th percentile; undefined when nothing is measured.
export function limits(sorted: Float32Array): [number, number] | undefined {
  return sorted.length > 0 ? [percentile(sorted, 0.01), percentile(sorted, 0.99)] : undefined;
}

// How many values lie in each of so many equal steps of the stretched range.
export function histogram(sorted: Float32Array, low: number, high: number, stretch: Stretch, bins: number): Uint32Array {
  const counts = new Uint32Array(bins);
  let from = 0;
  for (let bin = 0; bin < bins; bin++) {
    const end = bin === bins - 1 ? sorted.length : below(sorted, value((bin + 1) / bins, low, high, stretch));
    counts[bin] = Math.max(0, end - from);
    from = Math.max(from, end);
  }
  return counts;
}

// How many are smaller than a limit, by halving.
function below(sorted: Float32Array, limit: number): number {
  let [from, to] = [0, sorted.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (sorted[middle]! < limit) from = middle + 1;
    else to = middle;
  }
  return from;
}
