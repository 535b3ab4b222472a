// The bar beside a picture: its colours over the range of its values, how often each value occurs, and the limits of the
// contrast as handles on it.

import { type MapName, type Stretch, fraction, histogram, percentile, table, value as valueAt } from "./colour";
import { h, say, svg } from "./dom";
import * as format from "./format";

const BINS = 64;
const MARKS = [0.01, 0.5, 0.99];

export type Limits = [low: number, high: number];
export type Hold = "auto" | "frozen" | "fixed"; // Percentiles; those of a moment; set by hand.

export interface Scale {
  range: Limits; // Of all values.
  limits: Limits;
  hold: Hold;
  map: MapName;
  stretch: Stretch;
  sorted: Float32Array; // Values, or some of them, in ascending order.
}

const HOLDS: Record<Hold, string> = {
  auto: "Contrast follows the 1st and 99th percentile: click to freeze it as it is",
  frozen: "Contrast is frozen: click to follow the 1st and 99th percentile",
  fixed: "Contrast is set by hand: click to follow the 1st and 99th percentile",
};

export class Bar {
  readonly element: HTMLElement;
  private readonly colours = h("canvas", { width: "1", height: "256" });
  private readonly wheel = h("canvas", { width: "64", height: "64", class: "wheel", title: "The colour of each direction; brightness is length" });
  private readonly counts = svg("path", { class: "counts" });
  private readonly marks = MARKS.map(() => svg("line", { x1: 0, x2: 36, class: "percentile" }));
  private readonly handles: [HTMLElement, HTMLElement];
  private readonly fields: [HTMLInputElement, HTMLInputElement];
  private readonly hold: HTMLButtonElement;
  private scale: Scale | undefined;
  private wheelOf = "";

  constructor(
    private readonly of: string,
    private readonly fix: (limits: Limits) => void,
    release: () => void,
  ) {
    this.handles = [this.handle(0), this.handle(1)];
    this.fields = [this.field(0), this.field(1)];
    this.hold = h("button", { type: "button", class: "hold", click: release });
    const plot = svg("svg", { class: "histogram", viewBox: "0 0 36 100", preserveAspectRatio: "none" });
    const title = svg("title", {});
    title.textContent = "How often each value occurs, on a logarithmic scale; lines at the 1st, 50th and 99th percentile";
    plot.append(title, this.counts, ...this.marks);
    const ramp = h("div", { class: "ramp" }, this.colours, ...this.handles);
    ramp.insertBefore(plot, this.handles[0]);
    this.element = h("div", { class: "bar" }, this.fields[1], ramp, this.fields[0], this.hold, this.wheel);
  }

  show(scale: Scale): void {
    this.scale = scale;
    this.element.classList.remove("round");
    const { limits, hold } = scale;
    const places = limits.map((limit) => this.placeOf(limit)) as Limits;
    this.paint(places);
    this.plot(scale);
    places.forEach((place, which) => {
      this.handles[which]!.style.bottom = `${place * 100}%`;
      this.handles[which]!.setAttribute("aria-valuetext", format.value(limits[which]!));
      const field = this.fields[which]!;
      const text = format.value(limits[which]!);
      if (document.activeElement !== field && field.value !== text) field.value = text;
    });
    say(this.hold, hold);
    this.hold.title = HOLDS[hold];
    this.hold.setAttribute("aria-pressed", String(hold !== "auto"));
  }

  private placeOf(value: number): number {
    const { range, stretch } = this.scale!;
    return fraction(value, ...range, stretch);
  }

  private paint([from, to]: Limits): void {
    const context = this.colours.getContext("2d")!;
    const colours = table(this.scale!.map);
    const image = context.createImageData(1, 256);
    for (let row = 0; row < 256; row++) {
      const place = 1 - row / 255;
      const shown = to > from ? Math.min(1, Math.max(0, (place - from) / (to - from))) : 0.5;
      const at = Math.round(shown * 255) * 4;
      image.data.set(colours.subarray(at, at + 4), row * 4);
    }
    context.putImageData(image, 0, 0);
  }

  private plot({ sorted, range, stretch }: Scale): void {
    const counts = histogram(sorted, ...range, stretch, BINS).map(Math.log1p);
    const top = Math.max(...counts, 1);
    const step = 100 / BINS;
    const steps = [...counts].map((count, bin) => `V${100 - bin * step}H${((count / top) * 34).toFixed(1)}V${100 - (bin + 1) * step}`);
    this.counts.setAttribute("d", `M0 100${steps.join("")}H0Z`);
    this.marks.forEach((line, index) => {
      line.classList.toggle("absent", sorted.length === 0);
      if (sorted.length === 0) return;
      const y = String(100 - this.placeOf(percentile(sorted, MARKS[index]!)) * 100);
      line.setAttribute("y1", y);
      line.setAttribute("y2", y);
    });
  }

  // What the colours of directions mean: as on the screen, down is +y.
  showWheel(map: MapName): void {
    this.element.classList.add("round");
    if (this.wheelOf === map) return;
    this.wheelOf = map;
    paintWheel(this.wheel, map);
  }

  private field(which: 0 | 1): HTMLInputElement {
    const field = h("input", { class: "limit-value", inputmode: "decimal", "aria-label": `${which ? "upper" : "lower"} contrast limit of ${this.of} as a number` });
    field.addEventListener("change", () => {
      const wanted = Number(field.value);
      if (field.value.trim() !== "" && Number.isFinite(wanted)) this.set(which, wanted);
      field.blur();
    });
    field.addEventListener("blur", () => this.scale && this.show(this.scale));
    return field;
  }

  private set(which: 0 | 1, value: number): void {
    if (!this.scale) return;
    const limits: Limits = [...this.scale.limits];
    limits[which] = value;
    if (limits[0] <= limits[1]) this.fix(limits);
  }

  private handle(which: 0 | 1): HTMLElement {
    const handle = h("div", { class: "limit", role: "slider", tabindex: "0", "aria-orientation": "vertical", "aria-label": `${which ? "upper" : "lower"} contrast limit of ${this.of}` });
    const move = (place: number) => this.scale && this.set(which, valueAt(Math.min(1, Math.max(0, place)), ...this.scale.range, this.scale.stretch));
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = this.colours.getBoundingClientRect();
      move((box.bottom - event.clientY) / box.height);
    });
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 0.01, ArrowDown: -0.01 }[event.key];
      if (step === undefined || !this.scale) return;
      event.preventDefault();
      move(this.placeOf(this.scale.limits[which]) + step * (event.shiftKey ? 10 : 1));
    });
    return handle;
  }
}

export function paintWheel(canvas: HTMLCanvasElement, map: MapName): void {
  const [colours, size] = [table(map), canvas.width];
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(size, size);
  const middle = (size - 1) / 2;
  for (let i = 0; i < size * size; i++) {
    const [y, x] = [Math.floor(i / size) - middle, (i % size) - middle];
    const radius = Math.hypot(y, x) / middle;
    if (radius > 1) continue;
    const at = Math.round(((Math.atan2(y, x) + Math.PI) / (2 * Math.PI)) * 255) * 4;
    for (let c = 0; c < 3; c++) image.data[i * 4 + c] = colours[at + c]! * radius;
    image.data[i * 4 + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
