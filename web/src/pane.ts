// A pane: one picture with its name, contrast, scale bar and the number under the cursor.

import { Bar } from "./bar";
import { type MapName, type Stretch, limits, sorted } from "./colour";
import { Picture } from "./codec";
import { h, say, svg } from "./dom";
import * as format from "./format";
import { type Part, type Stats, isVector, planeOf, stats } from "./plane";
import * as prefs from "./prefs";
import { type Outline, draw, png, save } from "./snapshot";
import { type Look, type Plane, Surface } from "./surface";
import { tiff } from "./tiff";

const BAR_PX = 72; // The colour bar with its numbers, and the gap beside it.
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
  unit: (picture: Picture) => Unit | undefined; // Of one pixel along both axes, if it is known.
  readout: (y: number, x: number) => string; // The position in words.
  pick?: (y: number, x: number) => void;
  nudge?: (dy: number, dx: number) => void; // Moves what was picked.
  isFromZero?: () => boolean; // Whether vectors are measured from zero, and not from their mean.
  line?: HTMLElement; // Between head and picture.
  about: () => About;
  outlines?: () => Outline[]; // What lies over the picture, to be kept with it.
  whole?: () => Promise<Picture>; // In full size, where the picture may have been binned.
  failed: (text: string) => void;
}

// What is told of a picture that is kept.
export interface About {
  file: string; // Its name without an ending.
  lines: string[]; // For people.
  facts: Record<string, unknown>; // For programs.
}

export class Pane {
  readonly element: HTMLElement;
  readonly overlay = svg("svg", { class: "overlay" }) as SVGSVGElement;
  readonly surface: Surface;
  scale = 1; // Screen pixels per pixel of the picture.
  drawOverlay: () => void = () => {};
  onUpdate: () => void = () => {};
  plane: Plane = { height: 0, width: 0, values: new Float32Array(0), front: 0 };
  private picture: Picture | undefined;
  private isOver = false;
  private missing = 0;
  private stats: Stats | undefined;
  private sorted: Float32Array = new Float32Array(0);
  private isDirty = false;
  private cursor: [number, number] | undefined;
  private readonly stage = h("div", { class: "stage" });
  private readonly host = h("div", { class: "host" });
  private readonly note = h("span", { class: "note" });
  private readonly read = h("span", { class: "read" });
  private readonly empty = h("div", { class: "nothing" });
  private readonly bar: Bar;
  private readonly tools = h("div", { class: "tools" });

  constructor(private readonly setup: Setup) {
    const canvas = h("canvas");
    this.surface = new Surface(canvas);
    this.bar = new Bar(setup.key, (limits) => this.hold(limits, true), () => this.release());
    this.stage.append(canvas, this.overlay);
    this.element = h(
      "article",
      { class: "pane" },
      h("div", { class: "pane-head" }, setup.title, this.tools),
      ...(setup.line ? [setup.line] : []),
      this.host,
      h("div", { class: "pane-foot" }, this.read, this.note),
    );
    this.host.append(this.stage, this.bar.element, this.empty);
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
      tools.push(select("component", PARTS, this.part, (part) => ((this.kept.part = part), delete this.kept.held)));
    }
    if (!this.isField) {
      tools.push(select("stretch", named(STRETCHES), this.kept.stretch ?? this.setup.stretch, (stretch) => (this.kept.stretch = stretch)));
      tools.push(select("colours", named(MAPS), this.kept.map ?? this.setup.map, (map) => (this.kept.map = map)));
    }
    this.tools.replaceChildren(...tools, this.keeper(), ...this.setup.tools);
    this.element.classList.toggle("field", this.isField);
  }

  // Saves the picture, or its numbers.
  private keeper(): HTMLElement {
    const options = [["", "⤓"], ["png", "PNG: as shown"], ["tiff", "TIFF: numbers"]];
    const menu = h("select", { class: "save", title: "Save this picture", "aria-label": `save ${this.setup.key}` }, ...options.map(([value, text]) => h("option", { value: value! }, text!)));
    menu.options[0]!.hidden = true;
    menu.addEventListener("change", () => {
      const kind = menu.value;
      menu.value = "";
      const kept = kind === "png" ? this.savePng() : this.saveTiff();
      kept.catch((error: Error) => this.setup.failed(`Nothing was saved: ${error.message}`));
    });
    return menu;
  }

  private async savePng(): Promise<void> {
    if (!this.picture || this.plane.values.length === 0) throw new Error("there is no picture yet");
    const { file, lines } = this.setup.about();
    const { length, text } = this.barLength() ?? { length: 0, text: "" };
    const shot = { name: this.setup.key, under: lines, surface: this.surface, plane: this.plane, look: this.look(this.holes), isField: this.isField };
    const canvas = draw({ ...shot, bar: length > 0 ? { length, text } : undefined, outlines: this.setup.outlines?.() ?? [] });
    save(await png(canvas), `${file}.png`);
  }

  // A vector picture has a page for y and one for x.
  private async saveTiff(): Promise<void> {
    const picture = this.setup.whole ? await this.setup.whole() : this.picture;
    const [height = 0, width = 0] = picture?.shape ?? [];
    if (!picture || height * width === 0) throw new Error("there is no picture yet");
    const pages = isVector(picture) ? [planeOf(picture, "y").values, planeOf(picture, "x").values] : [picture.values];
    const { file, facts } = this.setup.about();
    const { unit, perPixel } = this.setup.unit(picture) ?? { unit: "pixel", perPixel: picture.axes[0]?.scale ?? 1 };
    const bytes = tiff({ height, width, pages, unit, perPixel, about: { ...facts, pages: pages.length > 1 ? ["y", "x"] : undefined } });
    save(new Blob([bytes], { type: "image/tiff" }), `${file}.tif`);
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
    this.stage.hidden = this.bar.element.hidden = picture === undefined;
    this.refresh();
  }

  // The last picture without its values: what is shown until the first of another scan come, so that nothing jumps and
  // handles stay in the hand.
  get blank(): Picture | undefined {
    if (!this.picture) return undefined;
    const blank = new Picture();
    [blank.shape, blank.axes, blank.values] = [this.picture.shape, this.picture.axes, new Float32Array(this.picture.values.length).fill(NaN)];
    return blank;
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
    this.onUpdate();
    if (!this.picture) {
      delete this.element.dataset.checksum;
      return;
    }
    const before = [this.plane.height, this.plane.width];
    this.plane = planeOf(this.picture, this.part, this.setup.isFromZero?.() ?? false);
    this.stats = stats(this.plane.values);
    this.plane.front = this.isOver ? this.plane.values.length : this.stats.front;
    if (before[0] !== this.plane.height || before[1] !== this.plane.width) this.fit();
    this.surface.upload(this.plane);
    this.sorted = sorted(this.plane.values);
    const { dataset } = this.element;
    [dataset.checksum, dataset.measured, dataset.cfg] = [this.stats.checksum, String(this.stats.measured), String(this.picture.cfg)];
    this.paint();
  }

  private paint(): void {
    if (!this.picture || !this.stats || this.plane.values.length === 0) return;
    const holes = this.plane.front - this.stats.measured;
    const isLost = this.holes === "missing";
    const look = this.look(this.holes);
    this.surface.paint(this.plane, look);
    this.showBar(look);
    const told = isLost ? [[holes, "missing"]] : [[holes - this.missing, "to be reduced"], [this.missing, "missing"]];
    say(this.note, told.flatMap(([frames, what]) => (Number(frames) > 0 ? [`${format.count(Number(frames))} ${what}`] : [])).join(", "));
    this.note.classList.toggle("bad", isLost);
    this.say();
    this.drawOverlay();
  }

  // Holes that no lost frame explains are still to be reduced.
  private get holes(): Look["holes"] {
    return this.missing >= this.plane.front - (this.stats?.measured ?? 0) ? "missing" : "waiting";
  }

  // How the values are shown.
  private look(holes: Look["holes"]): Look {
    if (this.isField) return { low: -Math.PI, high: Math.PI, stretch: "linear", map: "cyclic", holes };
    const [low, high] = this.kept.held?.limits ?? limits(this.sorted) ?? [0, 1];
    return { low, high, stretch: this.kept.stretch ?? this.setup.stretch, map: this.kept.map ?? this.setup.map, holes };
  }

  private showBar({ low, high, map, stretch }: Look): void {
    if (this.isField) return this.bar.showWheel(map);
    const { held } = this.kept;
    const range: [number, number] = [Math.min(this.stats!.low, low), Math.max(this.stats!.high, high)];
    this.bar.show({ range, limits: [low, high], hold: !held ? "auto" : held.byHand ? "fixed" : "frozen", map, stretch, sorted: this.sorted });
  }

  private hold(limits: [number, number], byHand: boolean): void {
    this.kept.held = { limits, byHand };
    prefs.keep();
    this.paint();
  }

  // Between contrast that follows the values and contrast that stays as it is.
  private release(): void {
    if (!this.kept.held) {
      const { low, high } = this.look("waiting");
      return this.hold([low, high], false);
    }
    delete this.kept.held;
    prefs.keep();
    this.paint();
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
    this.bar.element.style.height = `${hgt}px`;
    this.overlay.setAttribute("viewBox", `0 0 ${w} ${hgt}`);
    this.paint();
  }

  // A bar of a round length, in pixels of the picture.
  private barLength(): { length: number; text: string } | undefined {
    const { unit, perPixel } = (this.picture && this.setup.unit(this.picture)) ?? { unit: "px", perPixel: 1 };
    const length = format.roundDown((this.plane.width / 4) * perPixel);
    if (!(length > 0)) return undefined;
    return { length: length / perPixel, text: `${length >= 0.01 ? Number(length.toPrecision(2)) : length.toExponential(0)} ${unit}` };
  }

  // In the lower left corner.
  scaleBar(): SVGElement[] {
    const bar = this.barLength();
    if (!bar || this.plane.width * this.scale < 80) return [];
    const [x, y, w] = [10, this.plane.height * this.scale - 12, bar.length * this.scale];
    const text = svg("text", { x: x + w / 2, y: y - 6, class: "scale-text" });
    text.textContent = bar.text;
    return [svg("rect", { x: x - 1, y: y - 1, width: w + 2, height: 5, class: "scale-edge" }), svg("rect", { x, y, width: w, height: 3, class: "scale" }), text];
  }

  // Where a picture of a new detector began, while what lies before that is not all computed yet: a line from there.
  beginning(): SVGElement[] {
    const begins = this.picture?.begins ?? 0;
    const before = this.plane.values.subarray(0, begins);
    const holes = before.reduce((holes, value) => holes + (value === value ? 0 : 1), 0);
    const isShown = begins >= this.plane.width && holes > this.missing;
    this.element.dataset.begins = isShown ? String(begins) : "";
    if (!isShown) return [];
    const [row, column] = [Math.floor(begins / this.plane.width), begins % this.plane.width];
    const [upper, lower, across] = [row * this.scale, (row + 1) * this.scale, column * this.scale];
    const line = `M0 ${lower}H${across}V${upper}H${this.plane.width * this.scale}`;
    const text = svg("text", { x: this.plane.width * this.scale - 6, y: upper > 20 ? upper - 6 : lower + 14, class: "begins-text" });
    text.textContent = `live from row ${row}`;
    return [svg("path", { d: line, class: "begins-edge" }), svg("path", { d: line, class: "begins" }), text];
  }
}
