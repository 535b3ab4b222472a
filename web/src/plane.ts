// Pictures as planes of one number per pixel, and what is to be known of them at a glance.

import type { Picture } from "./codec";
import type { Plane } from "./surface";

export type Part = "field" | "magnitude" | "y" | "x";

export function isVector(picture: Picture): boolean {
  return picture.axes.length === 3 && picture.axes[2]?.name === "component" && picture.shape[2] === 2;
}

export interface Stats {
  low: number;
  high: number;
  measured: number; // Pixels with a value.
  front: number; // Pixels up to the last one with a value.
  checksum: string; // Changes with any value: lets a test see without a screenshot.
}

// FNV-1a over the bits of all values.
export function stats(values: Float32Array): Stats {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  let [low, high, measured, front, hash] = [Infinity, -Infinity, 0, 0, 0x811c9dc5];
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value === value) {
      if (value < low) low = value;
      if (value > high) high = value;
      measured += 1;
      front = i + 1;
      hash = Math.imul(hash ^ bits[i]!, 0x01000193);
    } else {
      hash = Math.imul(hash ^ 0x7fc00000, 0x01000193);
    }
  }
  return { low, high, measured, front, checksum: (hash >>> 0).toString(16).padStart(8, "0") };
}

// A picture of two axes as it is; of a vector picture the part asked for. Length and direction are measured from the mean of
// all positions, because the centre of mass of an undeflected beam is anywhere, or from zero.
export function planeOf(picture: Picture, part: Part, isFromZero = false): Plane {
  const [height = 0, width = 0] = picture.shape;
  if (!isVector(picture)) return { height, width, values: picture.values, front: 0 };
  const pairs = picture.values;
  const count = height * width;
  const values = new Float32Array(count);
  if (part === "y" || part === "x") {
    for (let i = 0; i < count; i++) values[i] = pairs[i * 2 + (part === "x" ? 1 : 0)]!;
    return { height, width, values, front: 0 };
  }
  let [sumY, sumX, measured] = [0, 0, 0];
  for (let i = 0; i < count; i++) {
    if (pairs[i * 2] === pairs[i * 2]) {
      sumY += pairs[i * 2]!;
      sumX += pairs[i * 2 + 1]!;
      measured += 1;
    }
  }
  const [meanY, meanX] = isFromZero ? [0, 0] : [sumY / measured, sumX / measured];
  const lengths = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const [y, x] = [pairs[i * 2]! - meanY, pairs[i * 2 + 1]! - meanX];
    lengths[i] = Math.hypot(y, x);
    values[i] = part === "field" ? Math.atan2(y, x) : lengths[i]!;
  }
  if (part === "magnitude") return { height, width, values, front: 0 };
  // Full brightness at the length that only one position in a hundred exceeds.
  const sorted = lengths.filter((length) => length === length).sort();
  const full = sorted[Math.floor(sorted.length * 0.99)] || 1;
  const weights = lengths.map((length) => Math.min(1, length / full));
  return { height, width, values, weights, front: 0 };
}
