// Numbers as people read them: short, of steady width, never more exact than they are.

export function count(value: number): string {
  return Math.round(value).toLocaleString("en-GB").replaceAll(",", "\u202f");
}

// Three significant digits and an SI prefix: 2.41 GB.
export function si(value: number, unit: string): string {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  let power = 0;
  while (Math.abs(value) >= 999.5 && power < prefixes.length - 1) {
    value /= 1000;
    power += 1;
  }
  const digits = power === 0 && Number.isInteger(value) ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.max(1, Math.abs(value)))));
  return `${value.toFixed(digits)} ${prefixes[power]}${unit}`;
}

// 00:41, 12:05, 3 h 12 min, 2 d 4 h.
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  const pad = (value: number) => String(value).padStart(2, "0");
  if (s < 3600) return `${pad(Math.floor(s / 60))}:${pad(s % 60)}`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${pad(Math.floor((s % 3600) / 60))} min`;
  if (s < 100 * 86_400) return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
  return "> 100 d";
}

// A measured value: four digits, with an exponent only where it must be.
export function value(number: number): string {
  if (!Number.isFinite(number)) return "not measured";
  const size = Math.abs(number);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return number.toExponential(3);
  if (Number.isInteger(number)) return String(number);
  return number.toPrecision(4);
}

// The largest of 1, 2, 5 times a power of ten that is not more than `limit`.
export function roundDown(limit: number): number {
  const power = 10 ** Math.floor(Math.log10(limit));
  const step = [5, 2, 1].find((step) => step * power <= limit * 1.0001) ?? 1;
  return step * power;
}

// 2026-11-28 07:00:11, of this place.
export function moment(time_ms: number): string {
  return new Date(time_ms).toLocaleString("sv-SE");
}

// A scan shape as people write it, 256x256 or 256, 256; undefined when nothing is said, null when it is no shape.
export function scanShape(text: string): [number, number] | undefined | null {
  if (text.trim() === "") return undefined;
  const found = /^\s*(\d{1,6})\s*[x×*,]\s*(\d{1,6})\s*$/i.exec(text);
  const [rows, positions] = [Number(found?.[1]), Number(found?.[2])];
  return rows > 0 && positions > 0 ? [rows, positions] : null;
}
