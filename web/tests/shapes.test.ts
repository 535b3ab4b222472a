import { expect, test } from "vitest";
import * as shapes from "../src/shapes";
import type { Detector } from "../src/shapes";

const EXTENT: [number, number] = [64, 96];
const disk = (): Detector => ({ name: "d", kind: "disk", cy: 32, cx: 48, radius: 10 });
const sector = (): Detector => ({ name: "s", kind: "sector", cy: 32, cx: 48, inner: 5, outer: 20, from_deg: -30, to_deg: 60 });
const rectangle = (): Detector => ({ name: "r", kind: "rectangle", y0: 10, x0: 20, y1: 30, x1: 50 });
const ones = { height: 64, width: 96, values: new Float32Array(64 * 96).fill(1) };

function drag(detector: Detector, part: string, from: shapes.Place, to: shapes.Place): Detector {
  shapes.set(detector, shapes.dragged(structuredClone(detector), part, from, to), EXTENT);
  return detector;
}

test("what is grabbed beside its middle does not jump", () => {
  expect(drag(disk(), "centre", [33, 47], [35, 50])).toMatchObject({ cy: 34, cx: 51, radius: 10 });
  expect(drag(disk(), "radius", [32, 59], [32, 62])).toMatchObject({ cy: 32, radius: 13 });
  expect(drag(disk(), "radius", [32, 58], [32, 47]).radius).toBe(1);
  expect(drag(disk(), "radius", [32, 58], [32, 48]).radius).toBe(0.5); // Not a point.
  expect(drag(sector(), "inner", [32, 58], [32, 40]).inner).toBe(3);
  expect(drag(sector(), "inner", [32, 53], [32, 99]).inner).toBe(19.5);
});

test("the angles of a sector stay in order, however far a hand turns", () => {
  expect(drag(sector(), "to_deg", [33, 49], [31, 47])).toMatchObject({ from_deg: -30, to_deg: 240 });
  expect(drag(sector(), "from_deg", [32, 60], [20, 48])).toMatchObject({ from_deg: -120, to_deg: 60 });
  const typed = sector();
  shapes.set(typed, { to_deg: -40 }, EXTENT);
  expect(typed).toMatchObject({ from_deg: -30, to_deg: 320 });
  shapes.set(typed, { from_deg: 350 }, EXTENT);
  expect(typed).toMatchObject({ from_deg: -10, to_deg: 320 });
  shapes.set(typed, { to_deg: -10 }, EXTENT);
  expect(typed).toMatchObject({ from_deg: -10, to_deg: 350 });
});

test("rectangles have whole pixels and stay on the detector", () => {
  expect(drag(rectangle(), "centre", [20, 30], [-50, 30.4])).toMatchObject({ y0: 0, x0: 20, y1: 20, x1: 50 });
  expect(drag(rectangle(), "y1x1", [29.5, 49.5], [200, 60])).toMatchObject({ y0: 10, x0: 20, y1: 64, x1: 61 });
  expect(drag(rectangle(), "x0", [15, 19.5], [15, 300])).toMatchObject({ x0: 49, x1: 50 });
});

test("a disk of radius 0 is a point on a pixel", () => {
  const point = disk();
  shapes.set(point, { radius: 0 }, EXTENT);
  expect(shapes.word(point)).toBe("point");
  expect(shapes.parts(point)).toEqual(["centre"]);
  expect(drag(point, "centre", [32, 48], [33.6, 48.2])).toMatchObject({ cy: 34, cx: 48 });
  expect(shapes.total(point, ones)).toBe(1);
});

test("arrow keys move by pixels and degrees", () => {
  expect(shapes.nudged(disk(), "centre", 0, 10)).toEqual({ cy: 32, cx: 58 });
  expect(shapes.nudged(disk(), "radius", -1, 0)).toEqual({ radius: 11 });
  expect(shapes.nudged(sector(), "from_deg", 0, 1)).toEqual({ from_deg: -29 });
  expect(shapes.nudged(rectangle(), "y0x1", 1, 0)).toEqual({ y0: 11, x1: 50 });
});

test("shapes take the pixels that docs/reductions.md says", () => {
  const at = (detector: Detector, y: number, x: number) => shapes.total(detector, { height: 64, width: 96, values: ones.values.map((_, i) => (i === y * 96 + x ? 1 : 0)) });
  expect([at(disk(), 32, 58), at(disk(), 32, 59)]).toEqual([1, 0]);
  const ring: Detector = { name: "a", kind: "ring", cy: 32, cx: 48, inner: 5, outer: 10 };
  expect([at(ring, 32, 53), at(ring, 32, 54), at(ring, 32, 58), at(ring, 32, 59)]).toEqual([0, 1, 1, 0]);
  expect(shapes.total(rectangle(), ones)).toBe(20 * 30);
  expect([at(rectangle(), 10, 20), at(rectangle(), 30, 20)]).toEqual([1, 0]);
  const quarter: Detector = { ...sector(), from_deg: 0, to_deg: 90 };
  expect([at(quarter, 32, 60), at(quarter, 44, 48), at(quarter, 33, 60), at(quarter, 31, 60)]).toEqual([1, 0, 1, 0]);
  const quarters = [0, 90, 180, 270].map((from_deg) => shapes.total({ ...sector(), from_deg, to_deg: from_deg + 90 }, ones));
  expect(quarters.reduce((sum, total) => sum + total)).toBe(shapes.total({ ...ring, outer: 20 }, ones));
  const polygon: Detector = { name: "p", kind: "polygon", vertices: [[0, 0], [0, 4], [4, 4], [4, 0]] };
  expect([at(polygon, 0, 0), at(polygon, 3, 3), at(polygon, 3, 4), at(polygon, 4, 3)]).toEqual([1, 1, 0, 0]);
  const soft: Detector = { ...ring, kind: "ring_aa" };
  expect([at(soft, 32, 53), at(soft, 32, 58), at(soft, 32, 60)]).toEqual([0.5, 0.5, 0]);
  expect(shapes.total(disk(), { ...ones, values: ones.values.map(() => NaN) })).toBe(0);
});

test("new shapes lie on the detector and take something", () => {
  for (const kind of ["disk", "ring", "sector", "rectangle", "point"]) {
    const made = shapes.fresh(kind, "n", EXTENT, undefined);
    expect(shapes.total(made, ones), kind).toBeGreaterThan(0);
    expect(shapes.places(made, "centre", 1)).toHaveLength(1);
  }
  expect(shapes.fresh("rectangle", "n", [1, 1], undefined)).toMatchObject({ y0: 0, x0: 0, y1: 1, x1: 1 });
});
