// TIFF files of single-precision numbers (TIFF 6.0). Fiji and tifffile read the calibration as ImageJ writes it, in the resolution
// and in lines of text; hyperspy looks for the unit in the tags of Digital Micrograph.

export interface Stack {
  height: number;
  width: number;
  pages: Float32Array[]; // NaN: not measured.
  unit: string;
  perPixel: number; // Length or angle of one pixel, in that unit.
  about: Record<string, unknown>; // Kept as JSON beside the lines that ImageJ knows.
}

type Field = [tag: number, type: keyof typeof TYPES, count: number, value: number];

const TYPES = { ascii: 2, short: 3, long: 4, rational: 5 };

export function tiff({ height, width, pages, unit, perPixel, about }: Stack): Uint8Array<ArrayBuffer> {
  const text = describe(pages, unit, about);
  const textAt = 8;
  const padded = unit.padEnd(4, "\0"); // Shorter ones would have to lie in the directory.
  const unitAt = textAt + text.length + 1;
  const resolutionAt = even(unitAt + padded.length + 1);
  const directoriesAt = resolutionAt + 8;
  const pageBytes = height * width * 4;
  const [first, other] = [directoryBytes(fields(true)), directoryBytes(fields(false))];
  const pixelsAt = directoriesAt + first + (pages.length - 1) * other;
  const bytes = new Uint8Array(pixelsAt + pages.length * pageBytes);
  const view = new DataView(bytes.buffer);
  bytes.set([0x49, 0x49, 42, 0]); // Little-endian.
  view.setUint32(4, directoriesAt, true);
  bytes.set(new TextEncoder().encode(text), textAt);
  bytes.set(new TextEncoder().encode(padded), unitAt);
  const [dots, per] = ratio(1 / perPixel);
  view.setUint32(resolutionAt, dots, true);
  view.setUint32(resolutionAt + 4, per, true);
  let at = directoriesAt;
  pages.forEach((page, index) => {
    const next = at + (index === 0 ? first : other);
    const offset = pixelsAt + index * pageBytes;
    directory(view, at, fields(index === 0, offset), index + 1 < pages.length ? next : 0);
    page.forEach((value, i) => view.setFloat32(offset + i * 4, value, true));
    at = next;
  });
  return bytes;

  function fields(isFirst: boolean, offset = 0): Field[] {
    const description: Field[] = isFirst ? [[270, "ascii", text.length + 1, textAt]] : [];
    return [
      [256, "long", 1, width],
      [257, "long", 1, height],
      [258, "short", 1, 32],
      [259, "short", 1, 1], // Not compressed.
      [262, "short", 1, 1], // Black is zero.
      ...description,
      [273, "long", 1, offset],
      [277, "short", 1, 1],
      [278, "long", 1, height],
      [279, "long", 1, pageBytes],
      [282, "rational", 1, resolutionAt],
      [283, "rational", 1, resolutionAt],
      [296, "short", 1, 1], // The resolution is of no inch or centimetre: the description has the unit.
      [339, "short", 1, 3], // IEEE 754.
      [65003, "ascii", padded.length + 1, unitAt],
      [65004, "ascii", padded.length + 1, unitAt],
    ];
  }
}

function describe(pages: Float32Array[], unit: string, about: Record<string, unknown>): string {
  let [low, high] = [Infinity, -Infinity];
  for (const page of pages) for (const value of page) if (value === value) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const limits = low <= high ? [`min=${low}`, `max=${high}`] : [];
  const stack = pages.length > 1 ? [`images=${pages.length}`, `slices=${pages.length}`] : [];
  // Seven bits: what is beyond them as JSON escapes it.
  const json = JSON.stringify(about).replace(/[^\x20-\x7e]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return ["ImageJ=1.54f", ...stack, `unit=${unit}`, "loop=false", ...limits, `ronchi=${json}`, ""].join("\n");
}

const even = (at: number) => at + (at % 2);
const directoryBytes = (fields: Field[]) => 2 + fields.length * 12 + 4;

function directory(view: DataView, at: number, fields: Field[], next: number): void {
  view.setUint16(at, fields.length, true);
  fields.forEach(([tag, type, count, value], index) => {
    const entry = at + 2 + index * 12;
    view.setUint16(entry, tag, true);
    view.setUint16(entry + 2, TYPES[type], true);
    view.setUint32(entry + 4, count, true);
    if (type === "short") view.setUint16(entry + 8, value, true);
    else view.setUint32(entry + 8, value, true);
  });
  view.setUint32(at + 2 + fields.length * 12, next, true);
}

// A fraction of two numbers of 32 bits, to nine digits.
function ratio(value: number): [number, number] {
  const per = Math.max(1, Math.min(1e9, Math.floor(4e9 / value)));
  return [Math.round(value * per), per];
}
