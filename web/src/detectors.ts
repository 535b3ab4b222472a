// Virtual detectors: drawn on the diffraction pattern, grabbed by their handles, listed with their numbers. The receiver
// has the list; what is changed here is sent to it once the hand rests.

import * as api from "./api";
import { DETECTOR_COLOURS } from "./colour";
import { h, say, svg } from "./dom";
import type { Pane } from "./pane";
import * as prefs from "./prefs";

const REST_MS = 150; // A hand that rests for so long means what it says.
const HANDLE_PX = 5; // Radius of a handle; its halo is twice as large.

type Disk = api.Reduction & { kind: string; cy: number; cx: number; radius: number };
type Ring = api.Reduction & { kind: string; cy: number; cx: number; inner: number; outer: number };
export type Round = Disk | Ring;
type Radius = "radius" | "inner" | "outer";

const KINDS = ["disk", "ring", "disk_aa", "ring_aa"];

export function isRound(reduction: api.Reduction): reduction is Round {
  return KINDS.includes(reduction.kind ?? "");
}

function radii(detector: Round): Radius[] {
  return detector.kind.startsWith("ring") ? ["inner", "outer"] : ["radius"];
}

function get(detector: Round, radius: Radius): number {
  return Number(detector[radius]);
}

// Tenths of a pixel are finer than any hand.
const tenth = (value: number) => Math.round(value * 10) / 10;

export class Detectors {
  readonly element = h("div", { class: "detectors", "aria-label": "Virtual detectors" });
  list: api.Reduction[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private sending = false;
  private held = false;
  private rows = new Map<string, HTMLElement>();
  private structure = "";
  private selected = "";
  private drawnAs = "";

  constructor(
    private readonly pane: Pane,
    private readonly changed: () => void,
    private readonly failed: (text: string) => void,
  ) {
    pane.drawOverlay = () => this.draw();
  }

  get rounds(): Round[] {
    return this.list.filter(isRound);
  }

  colour(name: string): string {
    const known = prefs.prefs.colours[name];
    if (known) return known;
    const taken = new Set(this.rounds.map((detector) => prefs.prefs.colours[detector.name]));
    const colour = DETECTOR_COLOURS.find((colour) => !taken.has(colour)) ?? DETECTOR_COLOURS[0]!;
    prefs.prefs.colours[name] = colour;
    return colour;
  }

  // Whether the list here is newer than the receiver's.
  get isBusy(): boolean {
    return this.timer !== undefined || this.sending || this.held;
  }

  // The list in force, from the receiver.
  take(list: api.Reduction[]): void {
    if (this.isBusy) return;
    this.list = list;
    this.show();
  }

  private show(): void {
    const structure = JSON.stringify(this.list.map(({ name, kind }) => [name, kind]));
    if (structure !== this.structure) {
      this.structure = structure;
      this.build();
    }
    for (const detector of this.rounds) this.fill(detector);
    this.pane.refresh();
  }

  private edit(change: () => void): void {
    change();
    this.show();
    this.changed();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.send(), REST_MS);
  }

  private async send(): Promise<void> {
    this.timer = undefined;
    if (this.sending) {
      this.timer = setTimeout(() => void this.send(), REST_MS);
      return;
    }
    this.sending = true;
    try {
      // What is not a round detector stays as it is: its name says so.
      const list = await api.changeReductions(this.list.map((entry) => (isRound(entry) ? entry : { name: entry.name })));
      this.sending = false;
      this.take(list);
      this.failed("");
    } catch (error) {
      this.sending = false;
      this.failed(`The receiver did not take the detectors: ${(error as Error).message}`);
      this.take(await api.reductions().catch(() => this.list));
    }
    this.changed();
  }

  private freeName(kind: string): string {
    const names = new Set(this.list.map((entry) => entry.name));
    for (let number = 1; ; number++) if (!names.has(`${kind}${number}`)) return `${kind}${number}`;
  }

  private add(kind: "disk" | "ring"): void {
    const { height, width } = this.pane.plane;
    const like = this.rounds[0];
    const [cy, cx, size] = [like?.cy ?? height / 2, like?.cx ?? width / 2, Math.max(1, Math.min(height, width))];
    const name = this.freeName(kind);
    const shape = kind === "disk" ? { radius: tenth(size / 8) } : { inner: tenth(size / 5), outer: tenth(size / 3) };
    this.selected = name;
    this.edit(() => this.list.push({ name, kind, cy, cx, ...shape }));
  }

  // The list under the pattern.

  private build(): void {
    this.rows.clear();
    const rows = this.rounds.map((detector) => {
      const row = this.row(detector.name);
      this.rows.set(detector.name, row);
      return row;
    });
    const add = (kind: "disk" | "ring") => h("button", { type: "button", class: "add", click: () => this.add(kind) }, `+ ${kind}`);
    const head = h("div", { class: "detectors-head" }, h("h2", {}, "Detectors"), h("span", { class: "hint" }, "drag on the pattern, arrow keys by 1 px, Shift by 10"), add("disk"), add("ring"));
    const none = h("p", { class: "hint" }, "No virtual detector yet: add a disk for bright field, or a ring for annular dark field.");
    this.element.replaceChildren(head, ...(rows.length > 0 ? rows : [none]));
  }

  private row(name: string): HTMLElement {
    const detector = this.find(name)!;
    const swatch = h("button", { type: "button", class: "swatch", title: "Another colour", "aria-label": `colour of ${name}` });
    swatch.addEventListener("click", () => this.recolour(name));
    const title = h("input", { class: "name", value: name, "aria-label": `name of ${name}`, spellcheck: "false", maxlength: "40" });
    title.addEventListener("change", () => this.rename(name, title));
    const numbers = (["cy", "cx", ...radii(detector)] as const).map((key) => {
      const field = h("input", { type: "number", step: "1", "data-key": key, "aria-label": `${key} of ${name} in pixels` });
      field.addEventListener("input", () => {
        const value = field.valueAsNumber;
        if (Number.isFinite(value)) this.edit(() => this.set(this.find(name)!, key, value));
      });
      return h("label", {}, { cy: "y", cx: "x", radius: "r", inner: "in", outer: "out" }[key], field);
    });
    const eye = h("button", { type: "button", class: "eye", "aria-label": `show ${name} on the pattern` });
    eye.addEventListener("click", () => this.toggle(name));
    const remove = h("button", { type: "button", class: "remove", title: "Delete", "aria-label": `delete ${name}` }, "×");
    remove.addEventListener("click", () => this.edit(() => (this.list = this.list.filter((entry) => entry.name !== name))));
    const row = h("div", { class: "detector", "data-name": name }, swatch, title, h("span", { class: "kind" }, detector.kind.replace("_aa", " soft")), ...numbers, eye, remove);
    row.addEventListener("focusin", () => this.select(name));
    return row;
  }

  private fill(detector: Round): void {
    const row = this.rows.get(detector.name);
    if (!row) return;
    const colour = this.colour(detector.name);
    row.style.setProperty("--own", colour);
    row.classList.toggle("selected", detector.name === this.selected);
    for (const field of row.querySelectorAll<HTMLInputElement>("input[data-key]")) {
      const value = String(tenth(Number(detector[field.dataset.key!])));
      if (document.activeElement !== field && field.value !== value) field.value = value;
    }
    const isSeen = !prefs.prefs.unseen.includes(detector.name);
    const eye = row.querySelector(".eye")!;
    say(eye, isSeen ? "◉" : "○");
    eye.setAttribute("aria-pressed", String(isSeen));
  }

  private find(name: string): Round | undefined {
    return this.rounds.find((detector) => detector.name === name);
  }

  private select(name: string): void {
    this.selected = name;
    this.rounds.forEach((detector) => this.fill(detector));
    this.draw();
  }

  private recolour(name: string): void {
    const next = DETECTOR_COLOURS.indexOf(this.colour(name)) + 1;
    prefs.prefs.colours[name] = DETECTOR_COLOURS[next % DETECTOR_COLOURS.length]!;
    prefs.keep();
    this.show();
    this.changed();
  }

  private toggle(name: string): void {
    const { unseen } = prefs.prefs;
    prefs.prefs.unseen = unseen.includes(name) ? unseen.filter((other) => other !== name) : [...unseen, name];
    prefs.keep();
    this.show();
  }

  private rename(name: string, field: HTMLInputElement): void {
    const wanted = field.value.trim();
    const isTaken = this.list.some((entry) => entry.name === wanted);
    const isName = /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(wanted);
    if (wanted === name || !isName || isTaken) {
      if (wanted !== name) this.failed(`${JSON.stringify(wanted)} is not a new name: letters, digits, . _ - and not in use`);
      field.value = name;
      return;
    }
    prefs.prefs.colours[wanted] = this.colour(name);
    prefs.keep();
    this.edit(() => (this.find(name)!.name = wanted));
  }

  private set(detector: Round, key: "cy" | "cx" | Radius, value: number): void {
    const rounded = tenth(value);
    if (key === "cy" || key === "cx") detector[key] = rounded;
    else if (key === "inner") (detector as Ring).inner = Math.max(0, Math.min(rounded, (detector as Ring).outer - 0.5));
    else if (key === "outer") (detector as Ring).outer = Math.max(rounded, (detector as Ring).inner + 0.5);
    else (detector as Disk).radius = Math.max(0.5, rounded);
  }

  // On the pattern.

  private draw(): void {
    const { overlay, scale, plane } = this.pane;
    const { unseen, colours } = prefs.prefs;
    const drawn = JSON.stringify([this.list, scale, plane.height, plane.width, unseen, colours, this.selected, prefs.prefs.mradPerPx]);
    if (drawn === this.drawnAs) return; // Pictures change far more often than what lies on them.
    this.drawnAs = drawn;
    const focused = (document.activeElement as Element | null)?.getAttribute("data-handle");
    if (this.held) return this.redraw();
    overlay.replaceChildren(...this.pane.scaleBar());
    for (const detector of this.rounds) {
      if (prefs.prefs.unseen.includes(detector.name)) continue;
      overlay.append(this.drawn(detector, scale));
    }
    if (focused) overlay.querySelector<SVGElement>(`[data-handle="${CSS.escape(focused)}"]`)?.focus();
  }

  // While a handle is held nothing may be replaced under the pointer: everything is only moved.
  private redraw(): void {
    for (const detector of this.rounds) {
      const group = this.pane.overlay.querySelector(`[data-detector="${CSS.escape(detector.name)}"]`);
      if (group) this.place(group, detector, this.pane.scale);
    }
  }

  private drawn(detector: Round, scale: number): SVGElement {
    const group = svg("g", { class: "round", "data-detector": detector.name });
    group.style.setProperty("--own", this.colour(detector.name));
    if (detector.name === this.selected) group.classList.add("selected");
    const fill = svg("path", { class: "fill", "fill-rule": "evenodd" });
    group.append(fill);
    for (const radius of radii(detector)) group.append(svg("circle", { class: "edge", "data-part": radius }), svg("circle", { class: "grip", "data-part": radius }));
    const name = svg("text", { class: "round-name" });
    name.textContent = detector.name;
    group.append(name);
    for (const part of ["centre", ...radii(detector)] as const) group.append(this.handle(detector.name, part));
    for (const grip of group.querySelectorAll<SVGElement>(".grip")) this.grab(grip, detector.name, grip.dataset.part as Radius);
    this.place(group, detector, scale);
    return group;
  }

  // Centres of pixels lie at whole numbers: pixel 0 reaches from -0.5 to 0.5.
  private place(group: Element, detector: Round, scale: number): void {
    const [cy, cx] = [(detector.cy + 0.5) * scale, (detector.cx + 0.5) * scale];
    const move = (selector: string, attributes: Record<string, number>) => {
      for (const element of group.querySelectorAll(selector)) for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value.toFixed(1));
    };
    const circle = (r: number) => `M${cx - r} ${cy}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
    group.querySelector(".fill")!.setAttribute("d", radii(detector).map((radius) => circle(get(detector, radius) * scale)).join(""));
    const outermost = Math.max(...radii(detector).map((radius) => get(detector, radius))) * scale;
    move(".round-name", { x: cx, y: cy - outermost - 6 });
    move('[data-part="centre"]', { cx, cy });
    radii(detector).forEach((radius, index) => {
      const r = get(detector, radius) * scale;
      move(`.edge[data-part="${radius}"], .grip[data-part="${radius}"]`, { cx, cy, r });
      const [y, x] = this.within(cy, cx, r, index === 0 && radii(detector).length > 1 ? 1 : 0);
      move(`.handle[data-part="${radius}"], .halo[data-part="${radius}"]`, { cx: x, cy: y });
    });
  }

  // Where on an edge its handle lies: on the picture if it can, first to the right, or an eighth further for the inner edge,
  // so that thin rings can be held.
  private within(cy: number, cx: number, r: number, eighth: number): [number, number] {
    const [height, width] = [this.pane.plane.height * this.pane.scale, this.pane.plane.width * this.pane.scale];
    const places = [0, 2, 4, 6, 1, 3, 5, 7].map((turn): [number, number] => {
      const angle = ((turn + eighth) * Math.PI) / 4;
      return [cy + r * Math.sin(angle), cx + r * Math.cos(angle)];
    });
    const isIn = ([y, x]: [number, number]) => y >= HANDLE_PX && x >= HANDLE_PX && y <= height - HANDLE_PX && x <= width - HANDLE_PX;
    return places.find(isIn) ?? places[0]!;
  }

  private handle(name: string, part: "centre" | Radius): SVGElement {
    const group = svg("g", { class: "knob" });
    const halo = svg("circle", { class: "halo", r: 2 * HANDLE_PX, "data-part": part });
    const label = part === "centre" ? `centre of ${name}` : `${part} edge of ${name}`;
    const knob = svg("circle", { class: "handle", r: HANDLE_PX, tabindex: 0, role: "button", "aria-label": label, "data-handle": `${name}/${part}`, "data-part": part });
    group.append(halo, knob);
    this.grab(group, name, part);
    knob.addEventListener("focus", () => this.selected !== name && this.select(name));
    knob.addEventListener("keydown", (event) => {
      const [dy, dx] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[(event as KeyboardEvent).key] ?? [0, 0];
      if (dy === 0 && dx === 0) return;
      event.preventDefault();
      event.stopPropagation();
      const step = (event as KeyboardEvent).shiftKey ? 10 : 1;
      const detector = this.find(name)!;
      this.edit(() => {
        if (part === "centre") {
          this.set(detector, "cy", detector.cy + dy! * step);
          this.set(detector, "cx", detector.cx + dx! * step);
        } else this.set(detector, part, get(detector, part) + (dx! - dy!) * step);
      });
    });
    return group;
  }

  private grab(target: SVGElement, name: string, part: "centre" | Radius): void {
    const at = (event: PointerEvent): [number, number] => {
      const box = this.pane.overlay.getBoundingClientRect();
      return [(event.clientY - box.top) / this.pane.scale - 0.5, (event.clientX - box.left) / this.pane.scale - 0.5];
    };
    let offset: [number, number] = [0, 0];
    target.addEventListener("pointerdown", (event) => {
      const detector = this.find(name);
      if (!detector || event.button !== 0) return;
      event.preventDefault();
      this.select(name);
      const live = this.pane.overlay.querySelector<SVGElement>(`[data-handle="${CSS.escape(`${name}/${part}`)}"]`);
      live?.focus();
      const held = live ?? target;
      const [y, x] = at(event);
      // What is grabbed beside its middle does not jump.
      offset = part === "centre" ? [detector.cy - y, detector.cx - x] : [get(detector, part) - Math.hypot(y - detector.cy, x - detector.cx), 0];
      this.held = true;
      held.setPointerCapture(event.pointerId);
      const move = (event: PointerEvent) => {
        const [y, x] = at(event);
        this.edit(() => {
          if (part === "centre") {
            this.set(detector, "cy", y + offset[0]);
            this.set(detector, "cx", x + offset[1]);
          } else this.set(detector, part, Math.hypot(y - detector.cy, x - detector.cx) + offset[0]);
        });
      };
      const release = () => {
        this.held = false;
        held.removeEventListener("pointermove", move);
        this.show();
      };
      held.addEventListener("pointermove", move);
      held.addEventListener("lostpointercapture", release, { once: true });
    });
    target.addEventListener("click", (event) => event.stopPropagation());
  }
}
