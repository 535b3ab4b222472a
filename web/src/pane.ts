// A pane: one picture with its name, contrast, scale bar and the number under the cursor.

import { type MapName, type Stretch, fraction, limits, table } from "./colour";
import { Picture } from "./codec";
import { h, say, svg } from "./dom";
import * as format from "./format";
import { type Part, type Stats, isVector, planeOf, stats } from "./plane";
import * as prefs from "./prefs";
import { type Plane, Surface } from "./surface";

const BAR_PX = 66; // The colour bar with its numbers, and the gap beside it.
const STRETCHES: Stretch[] = ["linear", "sqrt", "log"];
const MAPS: MapName[] = ["gray", "viridis", "inferno"];
const PARTS: [Part, string][] = [["field", "direction"], ["magnitude", "length"], ["y", "y"], ["x", "x"]];

export interface Unit {
  unit: string;
  perPixel: number;
}

export interface Setup {
  key: string; // Under which its settings are kept.
  title: HTMLElement;
  stretch: Stretch;
  map: MapName;
  tools: HTMLElement[];
  unit: () => Unit | undefined; // Of one pixel along both axes, if it is known.
  readout: (y: number, x: number) => string; // The position in words.
  pick?: (y: number, x: number) => void;
  nudge?: (dy: number, dx: number) => void; // Moves what was picked.
}

export class Pane {
  readonly element: HTMLElement;
  readonly overlay = svg("svg", { class: "overlay" }) as SVGSVGElement;
  readonly surface: Surface;
  scale = 1; // Screen pixels per pixel of the picture.
  drawOverlay: () => void = () => {};
  plane: Plane = { height: 0, width: 0, values: new Float32Array(0), front: 0 };
  private picture: Picture | undefined;
  private isOver = false;
  private missing = 0;
  private stats: Stats | undefined;
  private contrast: [number, number] = [0, 1];
  private isDirty = false;
  private cursor: [number, number] | undefined;
  private readonly stage = h("div", { class: "stage" });
  private readonly host = h("div", { class: "host" });
  private readonly note = h("span", { class: "note" });
  private readonly read = h("span", { class: "read" });
  private readonly empty = h("div", { class: "nothing" });
  private readonly bar = h("canvas", { width: "1", height: "256" });
  private readonly handles: [HTMLElement, HTMLElement];
  private readonly labels = [h("span"), h("span")] as const;
  private readonly tools = h("div", { class: "tools" });
  private readonly barBox: HTMLElement;
  private readonly auto = h("button", { type: "button", class: "auto", click: () => this.toggleAuto() });

  constructor(private readonly setup: Setup) {
    const canvas = h("canvas");
    this.surface = new Surface(canvas);
    this.handles = [this.handle(0), this.handle(1)];
    this.stage.append(canvas, this.overlay);
    this.barBox = h("div", { class: "bar" }, this.labels[1], h("div", { class: "ramp" }, this.bar, ...this.handles), this.labels[0], this.auto);
    this.element = h(
      "article",
      { class: "pane" },
      h("div", { class: "pane-head" }, setup.title, this.note, this.tools),
      this.host,
      h("div", { class: "pane-foot" }, this.read),
    );
    this.host.append(this.stage, this.barBox, this.empty);
    new ResizeObserver(() => this.fit()).observe(this.host);
    this.stage.addEventListener("pointermove", (event) => this.point(event));
    this.stage.addEventListener("pointerleave", () => ((this.cursor = undefined), this.say()));
    if (setup.pick) {
      this.stage.classList.add("pickable");
      this.stage.addEventListener("click", () => this.cursor && setup.pick?.(...this.cursor));
      this.stage.tabIndex = 0;
      this.stage.setAttribute("role", "application");
      this.stage.setAttribute("aria-label", `${setup.key}: a click shows the frame of a position, arrow keys move it`);
      this.stage.addEventListener("keydown", (event) => {
        const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (!step) return;
        event.preventDefault();
        setup.nudge?.(step[0]! * (event.shiftKey ? 10 : 1), step[1]! * (event.shiftKey ? 10 : 1));
      });
    }
    this.arrange();
  }

  private get kept(): prefs.PanePrefs {
    return prefs.pane(this.setup.key);
  }

  get part(): Part {
    return (this.kept.part as Part | undefined) ?? "field";
  }

  private get isField(): boolean {
    return this.picture !== undefined && isVector(this.picture) && this.part === "field";
  }

  // The buttons of the head, which depend on what is shown.
  private arrange(): void {
    const select = <T extends string>(label: string, options: [T, string][], chosen: T, choose: (value: T) => void) => {
      const element = h("select", { "aria-label": `${label} of ${this.setup.key}` }, ...options.map(([value, text]) => h("option", { value }, text)));
      element.value = chosen;
      element.addEventListener("change", () => {
        choose(element.value as T);
        prefs.keep();
        this.arrange();
        this.refresh();
      });
      return element;
    };
    const named = <T extends string>(names: T[]): [T, string][] => names.map((name) => [name, name]);
    const tools: HTMLElement[] = [];
    if (this.picture && isVector(this.picture)) {
      tools.push(select("component", PARTS, this.part, (part) => ((this.kept.part = part), delete this.kept.frozen)));
    }
    if (!this.isField) {
      tools.push(select("stretch", named(STRETCHES), this.kept.stretch ?? this.setup.stretch, (stretch) => (this.kept.stretch = stretch)));
      tools.push(select("colours", named(MAPS), this.kept.map ?? this.setup.map, (map) => (this.kept.map = map)));
    }
    this.tools.replaceChildren(...tools, ...this.setup.tools);
    this.element.classList.toggle("field", this.isField);
  }

  // Shows another state of a picture. `isOver`: what has not come will not come; `missing`: frames known to be lost;
  // `message` is for when there is no picture.
  show(picture: Picture | undefined, isOver: boolean, missing = 0, message = ""): void {
    const wasVector = this.picture && isVector(this.picture);
    this.picture = picture;
    [this.isOver, this.missing] = [isOver, missing];
    if (wasVector !== (picture && isVector(picture))) this.arrange();
    say(this.empty, picture ? "" : message);
    this.empty.hidden = picture !== undefined;
    this.stage.hidden = this.barBox.hidden = picture === undefined;
    this.refresh();
  }

  // To be drawn with the next image of the screen.
  refresh(): void {
    if (this.isDirty) return;
    this.isDirty = true;
    requestAnimationFrame(() => {
      this.isDirty = false;
      this.update();
    });
  }

  private update(): void {
    if (!this.picture) {
      delete this.element.dataset.checksum;
      return;
    }
    const before = [this.plane.height, this.plane.width];
    this.plane = planeOf(this.picture, this.part);
    this.stats = stats(this.plane.values);
    this.plane.front = this.isOver ? this.plane.values.length : this.stats.front;
    if (before[0] !== this.plane.height || before[1] !== this.plane.width) this.fit();
    this.surface.upload(this.plane);
    this.contrast = this.kept.frozen ?? limits(this.plane.values) ?? [0, 1];
    const { dataset } = this.element;
    [dataset.checksum, dataset.measured, dataset.cfg] = [this.stats.checksum, String(this.stats.measured), String(this.picture.cfg)];
    this.paint();
  }

  private paint(): void {
    if (!this.picture || !this.stats || this.plane.values.length === 0) return;
    const [low, high] = this.isField ? [-Math.PI, Math.PI] : this.contrast;
    // Holes that no lost frame explains are still to be reduced.
    const holes = this.plane.front - this.stats.measured;
    const isLost = this.missing >= holes;
    const stretch = this.isField ? "linear" : (this.kept.stretch ?? this.setup.stretch);
    const map = this.isField ? "cyclic" : (this.kept.map ?? this.setup.map);
    this.surface.paint(this.plane, { low, high, stretch, map, holes: isLost ? "missing" : "waiting" });
    this.paintBar(map, stretch);
    const told = isLost ? [[holes, "missing"]] : [[holes - this.missing, "to be reduced"], [this.missing, "missing"]];
    say(this.note, told.flatMap(([frames, what]) => (Number(frames) > 0 ? [`${format.count(Number(frames))} ${what}`] : [])).join(", "));
    this.note.classList.toggle("bad", isLost);
    this.say();
    this.drawOverlay();
  }

  private paintBar(map: MapName, stretch: Stretch): void {
    this.barBox.classList.toggle("wheel", this.isField);
    const context = this.bar.getContext("2d")!;
    const colours = table(map);
    if (this.isField) return this.paintWheel(context, colours);
    if (this.bar.width !== 1) [this.bar.width, this.bar.height] = [1, 256];
    const { low, high } = this.stats!;
    const image = context.createImageData(1, 256);
    const [from, to] = this.contrast.map((limit) => fraction(limit, low, high, stretch)) as [number, number];
    for (let row = 0; row < 256; row++) {
      const place = 1 - row / 255;
      const shown = to > from ? Math.min(1, Math.max(0, (place - from) / (to - from))) : 0.5;
      image.data.set(colours.subarray(Math.round(shown * 255) * 4, Math.round(shown * 255) * 4 + 4), row * 4);
    }
    context.putImageData(image, 0, 0);
    [from, to].forEach((place, index) => {
      this.handles[index]!.style.bottom = `${Math.min(1, Math.max(0, place)) * 100}%`;
      this.handles[index]!.setAttribute("aria-valuetext", format.value(this.contrast[index]!));
      say(this.labels[index]!, format.value(this.contrast[index]!));
    });
    say(this.auto, this.kept.frozen ? "fixed" : "auto");
    this.auto.title = this.kept.frozen ? "Contrast is fixed: click for 1-99 %" : "Contrast follows the 1st and 99th percentile: click to fix it";
    this.auto.setAttribute("aria-pressed", String(this.kept.frozen !== undefined));
  }

  // What the colours of directions mean: as on the screen, down is +y.
  private paintWheel(context: CanvasRenderingContext2D, colours: Uint8Array): void {
    const size = 64;
    if (this.bar.width !== size) [this.bar.width, this.bar.height] = [size, size];
    const image = context.createImageData(size, size);
    for (let i = 0; i < size * size; i++) {
      const [y, x] = [Math.floor(i / size) - 31.5, (i % size) - 31.5];
      const radius = Math.hypot(y, x) / 31.5;
      if (radius > 1) continue;
      const at = Math.round(((Math.atan2(y, x) + Math.PI) / (2 * Math.PI)) * 255) * 4;
      for (let c = 0; c < 3; c++) image.data[i * 4 + c] = colours[at + c]! * radius;
      image.data[i * 4 + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    this.labels.forEach((label) => say(label, ""));
  }

  private toggleAuto(): void {
    if (this.kept.frozen) delete this.kept.frozen;
    else this.kept.frozen = this.contrast;
    prefs.keep();
    this.refresh();
  }

  // Moves one limit of the contrast to a place on the bar, 0 at its foot.
  private fix(which: 0 | 1, place: number): void {
    if (!this.stats) return;
    const { low, high } = this.stats;
    const stretch = this.kept.stretch ?? this.setup.stretch;
    const at = Math.min(1, Math.max(0, place));
    const part = stretch === "sqrt" ? at * at : stretch === "log" ? (1000 ** at - 1) / 999 : at;
    const frozen: [number, number] = [...this.contrast];
    frozen[which] = low + (high - low) * part;
    if (frozen[0] > frozen[1]) return;
    this.kept.frozen = frozen;
    prefs.keep();
    this.contrast = frozen;
    this.paint();
  }

  private handle(which: 0 | 1): HTMLElement {
    const label = `${which ? "upper" : "lower"} contrast limit of ${this.setup.key}`;
    const handle = h("div", { class: "limit", role: "slider", tabindex: "0", "aria-label": label });
    const place = () => 1 - (handle.offsetTop + handle.offsetHeight / 2) / Math.max(1, this.bar.clientHeight);
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = this.bar.getBoundingClientRect();
      this.fix(which, (box.bottom - event.clientY) / box.height);
    });
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 0.01, ArrowDown: -0.01 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.fix(which, place() + step * (event.shiftKey ? 10 : 1));
    });
    return handle;
  }

  private point(event: PointerEvent): void {
    const box = this.stage.getBoundingClientRect();
    const [y, x] = [Math.floor((event.clientY - box.top) / this.scale), Math.floor((event.clientX - box.left) / this.scale)];
    const isInside = y >= 0 && x >= 0 && y < this.plane.height && x < this.plane.width;
    this.cursor = isInside ? [y, x] : undefined;
    this.say();
  }

  private say(): void {
    if (!this.cursor || !this.picture) return say(this.read, "");
    const [y, x] = this.cursor;
    const at = y * this.plane.width + x;
    const shown = this.isField ? this.picture.values.subarray(at * 2, at * 2 + 2) : this.plane.values.subarray(at, at + 1);
    say(this.read, `${this.setup.readout(y, x)}  ·  ${Array.from(shown, format.value).join(", ")}`);
  }

  // As large as fits, without distortion.
  private fit(): void {
    const { height, width } = this.plane;
    if (height * width === 0) return;
    const [roomY, roomX] = [this.host.clientHeight, this.host.clientWidth - BAR_PX];
    this.scale = Math.max(0.05, Math.min(roomX / width, roomY / height));
    const [w, hgt] = [Math.floor(width * this.scale), Math.floor(height * this.scale)];
    this.stage.style.width = `${w}px`;
    this.stage.style.height = `${hgt}px`;
    const density = window.devicePixelRatio || 1;
    this.surface.canvas.width = Math.max(1, Math.round(w * density));
    this.surface.canvas.height = Math.max(1, Math.round(hgt * density));
    this.barBox.style.height = `${hgt}px`;
    this.overlay.setAttribute("viewBox", `0 0 ${w} ${hgt}`);
    this.paint();
  }

  // A bar of a round length in the lower left corner.
  scaleBar(): SVGElement[] {
    const unit = this.setup.unit() ?? { unit: "px", perPixel: 1 };
    const width = this.plane.width * this.scale;
    const length = format.roundDown((this.plane.width / 4) * unit.perPixel);
    if (!(length > 0) || width < 80) return [];
    const [x, y, w] = [10, this.plane.height * this.scale - 12, (length / unit.perPixel) * this.scale];
    const text = svg("text", { x: x + w / 2, y: y - 6, class: "scale-text" });
    text.textContent = `${length >= 0.01 ? Number(length.toPrecision(2)) : length.toExponential(0)} ${unit.unit}`;
    return [svg("rect", { x: x - 1, y: y - 1, width: w + 2, height: 5, class: "scale-edge" }), svg("rect", { x, y, width: w, height: 3, class: "scale" }), text];
  }
}
