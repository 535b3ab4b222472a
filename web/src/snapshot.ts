// Pictures that people keep: of what is on the screen as PNG, with scale bar and colour bar; of the numbers as TIFF.

import { paintWheel } from "./bar";
import { table } from "./colour";
import * as format from "./format";
import type { Look, Plane, Surface } from "./surface";

const SIDE_PX = 768; // The longer side, or a little more, in whole multiples of a pixel of the picture.
const EDGE = 20;
const BAR = { gap: 14, width: 18, text: 76 };
const FONT = '15px system-ui, "Segoe UI", "DejaVu Sans", sans-serif';

export interface Outline {
  path: string; // In pixels of the picture, centres at whole numbers.
  colour: string;
  name: string;
  at: [y: number, x: number];
}

export interface Shot {
  name: string;
  under: string[]; // Lines below the picture.
  surface: Surface;
  plane: Plane;
  look: Look;
  isField: boolean;
  bar: { length: number; text: string } | undefined; // The scale bar: pixels of the picture.
  outlines: Outline[];
}

export function draw(shot: Shot): HTMLCanvasElement {
  const { plane, surface, look } = shot;
  const scale = Math.max(1, Math.ceil(SIDE_PX / Math.max(plane.height, plane.width)));
  const [height, width] = [plane.height * scale, plane.width * scale];
  const canvas = document.createElement("canvas");
  canvas.width = width + 2 * EDGE + BAR.gap + BAR.width + BAR.text;
  canvas.height = height + 2 * EDGE + 32 + shot.under.length * 22;
  const context = canvas.getContext("2d")!;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#111";
  context.font = `600 ${FONT}`;
  context.fillText(shot.name, EDGE, EDGE + 12);
  context.translate(EDGE, EDGE + 24);
  surface.paintAt(width, height, plane, look, (picture) => context.drawImage(picture, 0, 0));
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  shot.outlines.forEach((outline) => drawOutline(context, outline, scale));
  if (shot.bar) drawScaleBar(context, shot.bar, scale, height);
  context.restore();
  drawColours(context, shot, width + BAR.gap, height);
  context.font = FONT;
  context.fillStyle = "#444";
  shot.under.forEach((line, index) => context.fillText(line, 0, height + 26 + index * 22));
  return canvas;
}

function drawOutline(context: CanvasRenderingContext2D, { path, colour, name, at }: Outline, scale: number): void {
  const placed = new Path2D();
  placed.addPath(new Path2D(path), new DOMMatrix([scale, 0, 0, scale, scale / 2, scale / 2]));
  context.strokeStyle = colour;
  context.lineWidth = 2;
  context.stroke(placed);
  text(context, name, (at[1] + 0.5) * scale, Math.max(18, (at[0] + 0.5) * scale - 8), colour);
}

function drawScaleBar(context: CanvasRenderingContext2D, bar: NonNullable<Shot["bar"]>, scale: number, height: number): void {
  const [x, y, length] = [16, height - 22, bar.length * scale];
  context.fillStyle = "#000a";
  context.fillRect(x - 2, y - 2, length + 4, 9);
  context.fillStyle = "#fff";
  context.fillRect(x, y, length, 5);
  text(context, bar.text, x + length / 2, y - 8, "#fff");
}

function text(context: CanvasRenderingContext2D, words: string, x: number, y: number, colour: string): void {
  context.font = `600 ${FONT}`;
  context.textAlign = "center";
  context.lineWidth = 4;
  context.strokeStyle = "#000b";
  context.strokeText(words, x, y);
  context.fillStyle = colour;
  context.fillText(words, x, y);
  context.textAlign = "start";
}

function drawColours(context: CanvasRenderingContext2D, { look, isField }: Shot, x: number, height: number): void {
  if (isField) {
    const wheel = document.createElement("canvas");
    wheel.width = wheel.height = 80;
    paintWheel(wheel, look.map);
    context.drawImage(wheel, x, height - 80);
    return;
  }
  const colours = table(look.map);
  for (let row = 0; row < height; row++) {
    const at = Math.round((1 - row / Math.max(1, height - 1)) * 255) * 4;
    context.fillStyle = `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
    context.fillRect(x, row, BAR.width, 1);
  }
  context.fillStyle = "#111";
  context.font = FONT;
  context.fillText(format.value(look.high), x + BAR.width + 6, 12);
  context.fillText(format.value(look.low), x + BAR.width + 6, height - 1);
  if (look.stretch === "linear") return;
  context.fillStyle = "#666";
  context.fillText(look.stretch, x + BAR.width + 6, height / 2);
}

export async function png(canvas: HTMLCanvasElement): Promise<Blob> {
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (!blob) throw new Error(`a picture of ${canvas.width} x ${canvas.height} pixels is more than this browser can make`);
  return blob;
}

// Hands a file to the browser; names keep letters, digits, dots, dashes.
export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^A-Za-z0-9._-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
