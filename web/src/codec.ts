// Messages of the live stream (docs/live-stream.md): taken apart, and put together into pictures.

export interface Axis {
  name: string;
  unit: string;
  scale: number;
  offset: number;
}

export interface Header {
  v: number;
  type: "array" | "rows" | "state" | "heartbeat" | "end";
  acq: string;
  result?: string;
  seq: number;
  time_ns: number;
  frame_from: number;
  frame_to: number;
  visible: number;
  dtype?: string;
  shape?: number[];
  rows?: [number, number][];
  full_shape?: number[];
  axes?: Axis[];
  cfg?: number;
  quality?: { missing: number; dropped: number };
  params?: unknown;
}

export interface Framed {
  header: Header;
  blob: Float32Array;
}

// Header and numbers of a message in one piece: u32 header length | header | zeros up to a multiple of 8 | blob.
export function unframe(buffer: ArrayBuffer): Framed {
  if (buffer.byteLength < 4) throw new Error(`a message of ${buffer.byteLength} bytes: 4 or more expected`);
  const length = new DataView(buffer).getUint32(0, true);
  if (4 + length > buffer.byteLength) throw new Error(`a header of ${length} bytes in ${buffer.byteLength}`);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as Header;
  if (header.v !== 1) throw new Error(`version ${header.v} of the stream: 1 expected`);
  return { header, blob: numbers(buffer, Math.ceil((4 + length) / 8) * 8, header.dtype) };
}

function numbers(buffer: ArrayBuffer, start: number, dtype: string | undefined): Float32Array {
  const bytes = Math.max(0, buffer.byteLength - start);
  switch (dtype) {
    case undefined:
      return new Float32Array(0);
    case "<f4":
      return new Float32Array(buffer, start, bytes >> 2);
    case "<f8":
      return Float32Array.from(new Float64Array(buffer, start, bytes >> 3));
    default:
      throw new Error(`numbers of type ${dtype}: <f4 or <f8 expected`);
  }
}

// A result as it is known here: NaN where nothing was measured.
export class Picture {
  shape: number[] = [];
  axes: Axis[] = [];
  values = new Float32Array(0);
  quality = { missing: 0, dropped: 0 };
  cfg = 0;
  // The first position that this generation of its detector measured live; those before it are computed of recorded frames.
  begins: number | undefined;
  private next: number | undefined;

  // Takes a message in; false when it changed nothing, because one before it is missing.
  take({ header, blob }: Framed): boolean {
    const inOrder = this.next === header.seq;
    if (header.type === "array" || inOrder) this.next = header.seq + 1;
    if (header.type !== "array" && !(header.type === "rows" && inOrder)) return false;
    const shape = header.full_shape ?? [];
    const size = shape.reduce((product, extent) => product * extent, 1);
    if (header.type === "array" && (this.values.length !== size || !same(shape, this.shape))) {
      this.values = new Float32Array(size).fill(NaN);
      this.shape = shape;
    }
    const row = size / Math.max(1, shape[0] ?? 1);
    let at = 0;
    for (const [first, end] of header.rows ?? []) {
      this.values.set(blob.subarray(at * row, (at + end - first) * row), first * row);
      at += end - first;
    }
    this.axes = header.axes ?? [];
    this.quality = header.quality ?? this.quality;
    if (this.cfg !== header.cfg) this.begins = undefined;
    this.cfg = header.cfg ?? 0;
    if (this.begins === undefined) this.begin();
    return true;
  }

  private begin(): void {
    const first = this.values.findIndex((value) => value === value);
    const positions = (this.shape[0] ?? 1) * (this.shape[1] ?? 1);
    if (first >= 0) this.begins = Math.floor((first * positions) / this.values.length);
  }

  static of(framed: Framed): Picture {
    const picture = new Picture();
    picture.take(framed);
    return picture;
  }
}

function same(left: number[], right: number[]): boolean {
  return left.length === right.length && left.every((value, index) => value === right[index]);
}
