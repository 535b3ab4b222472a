import { expect, test } from "vitest";
import { tiff } from "../src/tiff";

// Reads what was written, as the standard says.
function read(bytes: Uint8Array<ArrayBuffer>) {
  const view = new DataView(bytes.buffer);
  expect([...bytes.slice(0, 4)]).toEqual([0x49, 0x49, 42, 0]);
  const pages = [];
  for (let at = view.getUint32(4, true); at !== 0; ) {
    const tags = new Map<number, number>();
    const count = view.getUint16(at, true);
    let last = 0;
    for (let entry = at + 2; entry < at + 2 + count * 12; entry += 12) {
      const [tag, type] = [view.getUint16(entry, true), view.getUint16(entry + 2, true)];
      expect(tag).toBeGreaterThan(last); // In ascending order.
      last = tag;
      tags.set(tag, type === 3 ? view.getUint16(entry + 8, true) : view.getUint32(entry + 8, true));
    }
    const [width, height] = [tags.get(256)!, tags.get(257)!];
    const values = Array.from({ length: width * height }, (_, i) => view.getFloat32(tags.get(273)! + i * 4, true));
    pages.push({ width, height, values, tags });
    at = view.getUint32(at + 2 + count * 12, true);
  }
  const text = new TextDecoder("ascii").decode(bytes.subarray(8)).split("\0")[0]!;
  const resolution = pages[0]!.tags.get(282)!;
  return { pages, text, dots: view.getUint32(resolution, true) / view.getUint32(resolution + 4, true) };
}

test("numbers come back as they were, page by page", () => {
  const [y, x] = [Float32Array.from([1, NaN, -3.5, 4e9, 0.1, 6]), Float32Array.from([7, 8, 9, 10, 11, NaN])];
  const { pages, text, dots } = read(tiff({ height: 2, width: 3, pages: [y, x], unit: "nm", perPixel: 0.25, about: { name: "größe" } }));
  expect(pages.map((page) => page.values)).toEqual([[...y], [...x]]);
  expect(pages.map(({ height, width }) => [height, width])).toEqual([[2, 3], [2, 3]]);
  expect(text.split("\n")).toEqual(["ImageJ=1.54f", "images=2", "slices=2", "unit=nm", "loop=false", "min=-3.5", "max=4000000000", 'ronchi={"name":"gr\\u00f6\\u00dfe"}', ""]);
  expect(dots).toBe(4);
});

test("pixels of any size keep it", () => {
  for (const perPixel of [1e-5, 0.0372, 1, 1234.5, 1e5]) {
    const { dots } = read(tiff({ height: 1, width: 1, pages: [Float32Array.of(NaN)], unit: "pm", perPixel, about: {} }));
    expect(dots * perPixel).toBeCloseTo(1, 5);
  }
});
