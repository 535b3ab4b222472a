import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { Picture, unframe } from "../src/codec";

// Made by the receiver: sinks/src/live/message.rs compares them with its own, byte for byte.
function golden(name: string): ArrayBuffer {
  const bytes = readFileSync(new URL(`golden/${name}.bin`, import.meta.url));
  return new Uint8Array(bytes).buffer;
}

// The same message with another number.
function numbered(name: string, seq: number) {
  const framed = unframe(golden(name));
  return { ...framed, header: { ...framed.header, seq } };
}

const N = NaN;

describe("messages of the receiver", () => {
  test("an array, rows of another precision, and the end", () => {
    const picture = new Picture();
    expect(picture.take(unframe(golden("array")))).toBe(true);
    expect([...picture.values]).toEqual([0, 1.5, -2, 3.25, N, 5, N, N, N, N, N, N]);
    expect(picture.shape).toEqual([4, 3]);
    expect(picture.quality).toEqual({ missing: 1, dropped: 2 });
    expect(picture.take(unframe(golden("rows")))).toBe(true);
    expect([...picture.values]).toEqual([0, 1.5, -2, 4.5, 4.5, 4.5, N, N, N, 7.5, 7.5, 7.5]);
    expect(picture.take(unframe(golden("end")))).toBe(false);
  });

  test("rows after a hole wait for the next array", () => {
    const picture = new Picture();
    expect(picture.take(unframe(golden("rows")))).toBe(false);
    picture.take(unframe(golden("array")));
    expect(picture.take(numbered("rows", 6))).toBe(false);
    expect(picture.values[3]).toBe(3.25);
    expect(picture.take(numbered("rows", 7))).toBe(false);
    expect(picture.take(numbered("array", 9))).toBe(true);
    expect(picture.take(numbered("rows", 10))).toBe(true);
    expect(picture.values[3]).toBe(4.5);
  });
});

test("what is no message is refused, and says why", () => {
  const text = (header: string) => {
    const bytes = new Uint8Array(4 + header.length);
    new DataView(bytes.buffer).setUint32(0, header.length, true);
    bytes.set(new TextEncoder().encode(header), 4);
    return bytes.buffer;
  };
  expect(() => unframe(new ArrayBuffer(3))).toThrow("3 bytes");
  expect(() => unframe(golden("array").slice(0, 50))).toThrow("a header of");
  expect(() => unframe(text('{"v":2}'))).toThrow("version 2");
  expect(() => unframe(text('{"v":1,"dtype":"<u8"}'))).toThrow("<u8");
});
