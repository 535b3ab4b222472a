import { expect, test } from "vitest";
import { fraction, histogram, limits, percentile, sorted, table, value } from "../src/colour";
import { Picture } from "../src/codec";
import * as format from "../src/format";
import { needed } from "../src/banners";
import type { Acquisition, Status } from "../src/api";
import { planeOf, stats } from "../src/plane";

test("numbers as people read them", () => {
  expect(format.count(1234567)).toBe("1\u202f234\u202f567");
  expect([2.411e9, 999.6, 12, 0, 38_400].map((value) => format.si(value, "B"))).toEqual(["2.41 GB", "1.00 kB", "12 B", "0 B", "38.4 kB"]);
  expect([41, 725, 11_520, 190_000, Infinity].map(format.duration)).toEqual(["00:41", "12:05", "3 h 12 min", "2 d 4 h", "> 100 d"]);
  expect([0, 3, 1234.5, 1.23456e7, 0.00012, NaN].map(format.value)).toEqual(["0", "3", "1235", "1.235e+7", "1.200e-4", "not measured"]);
  expect([7.3, 0.04, 24, 1, 99.9].map(format.roundDown)).toEqual([5, 0.02, 20, 1, 50]);
});

test("scan shapes are read in every way people write them, and nothing else is", () => {
  for (const text of ["256x128", " 256 × 128 ", "256,128", "256 X 128", "256*128"]) expect(format.scanShape(text)).toEqual([256, 128]);
  expect(format.scanShape("")).toBeUndefined();
  for (const text of ["256", "0x5", "5x", "axb", "1x2x3", "-1x2", "9999999x1"]) expect(format.scanShape(text)).toBeNull();
});

test("limits are percentiles of what is measured, and of nothing there are none", () => {
  const values = Float32Array.from({ length: 1001 }, (_, i) => i);
  expect(limits(sorted(values))).toEqual([10, 990]);
  expect(percentile(sorted(values.reverse()), 0.5)).toBe(500);
  expect(limits(sorted(Float32Array.from([NaN, 4, NaN])))).toEqual([4, 4]);
  expect(limits(sorted(new Float32Array(5).fill(NaN)))).toBeUndefined();
});

test("stretches go from 0 to 1 and never back", () => {
  for (const stretch of ["linear", "sqrt", "log"] as const) {
    const shown = [-5, 2, 3, 5, 8, 12, 99].map((value) => fraction(value, 2, 12, stretch));
    expect([shown[0], shown[1], shown[5], shown[6]]).toEqual([0, 0, 1, 1]);
    expect(shown).toEqual([...shown].sort((a, b) => a - b));
  }
  expect(fraction(3, 3, 3, "log")).toBe(0.5);
  for (const stretch of ["linear", "sqrt", "log"] as const) expect(fraction(value(0.3, 2, 12, stretch), 2, 12, stretch)).toBeCloseTo(0.3);
});

test("a histogram counts every value once, in steps of the stretched range", () => {
  const values = Float32Array.from({ length: 1000 }, (_, i) => ((i * 7919) % 1000) / 10);
  for (const stretch of ["linear", "sqrt", "log"] as const) {
    const slow = new Array(8).fill(0);
    for (const one of values) slow[Math.min(7, Math.floor(fraction(one, 0, 99.9, stretch) * 8))] += 1;
    const counts = [...histogram(sorted(values), 0, 99.9, stretch, 8)];
    expect(counts.reduce((sum, count) => sum + count)).toBe(1000);
    counts.forEach((count, bin) => expect(Math.abs(count - slow[bin])).toBeLessThanOrEqual(1)); // Rounding at an edge.
  }
  expect([...histogram(Float32Array.from([3, 3]), 3, 3, "linear", 2)].reduce((sum, count) => sum + count)).toBe(2);
  expect([...histogram(new Float32Array(0), 0, 1, "log", 3)]).toEqual([0, 0, 0]);
});

test("maps begin and end as they should; the wheel is closed", () => {
  expect([...table("gray").slice(508, 512)]).toEqual([127, 127, 127, 255]);
  expect([...table("viridis").slice(-4)]).toEqual([253, 231, 37, 255]);
  const wheel = table("cyclic");
  expect([...wheel.slice(0, 4)]).toEqual([...wheel.slice(-4)]);
});

test("a plane of a vector picture is measured from the mean", () => {
  const picture = new Picture();
  [picture.shape, picture.axes] = [[1, 3, 2], ["scan_y", "scan_x", "component"].map((name) => ({ name, unit: "px", scale: 1, offset: 0 }))];
  picture.values = Float32Array.from([1, 5, 3, 5, NaN, NaN]);
  expect([...planeOf(picture, "y").values]).toEqual([1, 3, NaN]);
  expect([...planeOf(picture, "magnitude").values]).toEqual([1, 1, NaN]);
  expect([...planeOf(picture, "magnitude", true).values].map((length) => length.toFixed(3))).toEqual(["5.099", "5.831", "NaN"]);
  const field = planeOf(picture, "field");
  expect([...field.values].map((angle) => angle.toFixed(3))).toEqual(["-1.571", "1.571", "NaN"]);
});

test("the checksum tells any two pictures apart that differ in one value", () => {
  const base = Float32Array.from([1, NaN, 3, NaN]);
  const { measured, front, low, high, checksum } = stats(base);
  expect([measured, front, low, high]).toEqual([2, 3, 1, 3]);
  for (let i = 0; i < 4; i++) {
    const other = base.slice();
    other[i] = 7;
    expect(stats(other).checksum).not.toBe(checksum);
  }
});

test("banners come only when a hand is needed, and say which", () => {
  const acquisition = (more: Partial<Acquisition>): Acquisition => ({
    id: "1", name: "a", path: "/data/a.ronchi", state: "running", recording: true, scan: [4, 4], frame_count: 16, frame_bytes: 100, visible: 3,
    durable_count: 3, missing: 0, gaps: {}, quality: { missing: 0, dropped: 0 }, started_ns: 0, ended_ns: null, results: [], ...more,
  });
  const link = { name: "merlin", connected: true, frames: 3, bytes: 300, written_bytes: 300, missing_frames: 0 };
  const status: Status = {
    version: "0", time_ns: 0, uptime_ns: 0, pool: { free: 1, total: 1, slot_bytes: 1 }, queues: [],
    disk: { directory: "/data", free_bytes: 1e9, volumes: [] }, links: [link], fallen: [], acquisitions: [],
  };
  const ids = (...args: Parameters<typeof needed>) => needed(...args).map((banner) => banner.id);
  expect(ids(status, acquisition({}), 0, Infinity)).toEqual([]);
  expect(ids(status, acquisition({ missing: 5 }), 0, Infinity)).toEqual([]);
  expect(ids(status, acquisition({}), 1.5, Infinity)).toEqual(["offline"]);
  expect(ids(undefined, undefined, 1.5, Infinity)).toEqual(["offline"]);
  expect(ids(status, acquisition({}), 0, 100)).toEqual(["disk-soon"]);
  expect(ids(status, acquisition({ gaps: { write_failed: 7 } }), 0, 100)).toEqual(["disk-full"]);
  expect(needed(status, acquisition({ gaps: { write_failed: 7 } }), 0, 100)[0]!.text).toContain("Free space in /data");
  const full = { ...status, disk: { ...status.disk, free_bytes: 0 } };
  expect(ids(full, acquisition({ missing: 5 }), 0, Infinity)).toEqual(["disk-full"]);
  expect(needed(full, acquisition({ state: "failed" }), 0, 100)[0]!.text).toBe("The disk is full: 3 frames are kept, but the data set could not be finished. Free space in /data, then run ronchi repair /data/a.ronchi.");
  expect(ids(status, acquisition({ state: "failed" }), 0, Infinity)).toEqual(["failed"]);
  expect(ids({ ...status, links: [{ ...link, connected: false }] }, acquisition({}), 0, Infinity)).toEqual(["detector"]);
  expect(ids({ ...status, links: [{ ...link, connected: false }] }, acquisition({ state: "complete" }), 0, Infinity)).toEqual([]);
  expect(ids({ ...status, links: [{ ...link, connected: false }] }, acquisition({ visible: 16 }), 0, Infinity)).toEqual([]);
  expect(ids(status, acquisition({ recording: false }), 0, Infinity)).toEqual(["preview"]);
  expect(ids({ ...status, fallen: ["writer"] }, undefined, 0, Infinity)).toEqual(["fallen"]);
});
