// Virtual detectors: drawn on the diffraction pattern, listed with their numbers. The receiver has the list; what is changed
// here is sent to it once the hand rests.

import * as api from "./api";
import { DETECTOR_COLOURS } from "./colour";
import { h, say } from "./dom";
import { type Drawn, Drawing } from "./drawing";
import * as format from "./format";
import type { Pane } from "./pane";
import * as prefs from "./prefs";
import * as shapes from "./shapes";
import type { Detector, Numbers } from "./shapes";
import type { Outline } from "./snapshot";

const REST_MS = 150; // A hand that rests for so long means what it says.
const OFFERED = ["disk", "ring", "sector", "rectangle", "point"];

export class Detectors {
  readonly element = h("div", { class: "detectors", "aria-label": "Virtual detectors" });
  list: api.Reduction[] = [];
  private readonly drawing: Drawing;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private sending = false;
  private rows = new Map<string, HTMLElement>();
  private totals = new Map<string, [of: string, total: number]>();
  private amended = new Set<string>();
  private structure = "";
  private selected = "";
  private canChange = true;

  constructor(
    private readonly pane: Pane,
    private readonly changed: () => void,
    private readonly failed: (text: string, error?: Error) => void,
  ) {
    this.drawing = new Drawing(pane, {
      select: (name) => this.select(name),
      change: (name, numbers) => this.set(name, numbers),
      release: () => this.show(),
    });
    pane.drawOverlay = () => this.draw();
  }

  // Those of the list that are virtual detectors: of images (.npy) nothing can be drawn.
  get detectors(): Detector[] {
    return this.list.filter((entry): entry is Detector => shapes.isDrawn(entry) || ["image", "npy"].includes(entry.kind ?? ""));
  }

  // Where the beam is, as far as the detectors tell.
  get centre(): shapes.Place | undefined {
    return this.detectors.map(shapes.centre).find((place) => place !== undefined);
  }

  colour(name: string): string {
    const known = prefs.prefs.colours[name];
    if (known) return known;
    const taken = new Set(this.detectors.map((detector) => prefs.prefs.colours[detector.name]));
    const colour = DETECTOR_COLOURS.find((colour) => !taken.has(colour)) ?? DETECTOR_COLOURS[0]!;
    prefs.prefs.colours[name] = colour;
    return colour;
  }

  // Whether the list here is newer than the receiver's.
  get isBusy(): boolean {
    return this.timer !== undefined || this.sending || this.drawing.isHeld;
  }

  // The list in force, from the receiver.
  take(list: api.Reduction[]): void {
    if (this.isBusy) return;
    this.list = list;
    this.amended.clear();
    this.show();
  }

  // Whether this page may change detectors at all.
  allow(canChange: boolean): void {
    if (canChange === this.canChange) return;
    this.canChange = canChange;
    this.drawing.isLocked = !canChange;
    this.structure = "";
    this.show();
  }

  // Other parameters of an entry that is no detector.
  amend(name: string, parameters: Partial<api.Reduction>): void {
    const entry = this.find(name);
    if (!entry) return;
    this.amended.add(name);
    this.edit(() => Object.assign(entry, parameters));
  }

  private show(): void {
    const structure = JSON.stringify(this.detectors.map((detector) => [detector.name, shapes.word(detector)]));
    if (structure !== this.structure) {
      this.structure = structure;
      this.build();
    }
    this.detectors.forEach((detector) => this.fill(detector));
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
      // What cannot be changed here stays as it is: its name says so.
      const isOurs = (entry: api.Reduction) => shapes.isShape(entry) || this.amended.has(entry.name);
      const list = await api.changeReductions(this.list.map((entry) => (isOurs(entry) ? entry : { name: entry.name })));
      this.sending = false;
      this.take(list);
      this.failed("");
    } catch (error) {
      this.sending = false;
      this.failed(`The receiver did not take the change: ${(error as Error).message}`, error as Error);
      this.take(await api.reductions().catch(() => this.list));
    }
    this.changed();
  }

  private freeName(kind: string): string {
    const names = new Set(this.list.map((entry) => entry.name));
    for (let number = 1; ; number++) if (!names.has(`${kind}${number}`)) return `${kind}${number}`;
  }

  private get extent(): [number, number] {
    return [this.pane.plane.height, this.pane.plane.width];
  }

  private add(kind: string): void {
    const name = this.freeName(kind);
    this.selected = name;
    this.edit(() => this.list.push(shapes.fresh(kind, name, this.extent, this.centre)));
  }

  // The list under the pattern.

  private build(): void {
    this.rows.clear();
    const rows = this.detectors.map((detector) => {
      const row = this.row(detector);
      this.rows.set(detector.name, row);
      return row;
    });
    const add = (kind: string) => h("button", { type: "button", class: "add", title: `Add a ${kind}`, click: () => this.add(kind) }, `+ ${kind}`);
    const tools = this.canChange ? OFFERED.map(add) : [h("span", { class: "hint" }, "read-only")];
    const how = "Drag on the pattern; arrow keys move what is in focus by 1 px, with Shift by 10";
    const head = h("div", { class: "detectors-head" }, h("h2", { title: how }, "Detectors"), ...tools);
    const none = h("p", { class: "hint" }, "No virtual detector yet: add a disk for bright field, or a ring for annular dark field.");
    this.element.replaceChildren(head, ...(rows.length > 0 ? rows : [none]));
  }

  private row(detector: Detector): HTMLElement {
    const { name } = detector;
    const swatch = h("button", { type: "button", class: "swatch", title: "Another colour", "aria-label": `colour of ${name}`, click: () => this.recolour(name) });
    const title = h("input", { class: "name", value: name, "aria-label": `name of ${name}`, spellcheck: "false", maxlength: "40" });
    title.addEventListener("change", () => this.rename(name, title));
    const numbers = shapes.typed(detector).map(([key, label]) => this.number(name, key, label));
    const eye = h("button", { type: "button", class: "eye", "aria-label": `show ${name} on the pattern`, click: () => this.toggle(name) });
    const remove = h("button", { type: "button", class: "remove", title: "Delete", "aria-label": `delete ${name}` }, "×");
    remove.addEventListener("click", () => this.edit(() => (this.list = this.list.filter((entry) => entry.name !== name))));
    remove.disabled = title.disabled = !this.canChange;
    const value = h("output", { class: "value", title: "Sum over this detector in the pattern that is shown" });
    const row = h("div", { class: "detector", "data-name": name }, swatch, title, h("span", { class: "kind" }, shapes.word(detector)), ...numbers, h("span", { class: "end" }, value, eye, remove));
    row.addEventListener("focusin", () => this.select(name));
    return row;
  }

  private number(name: string, key: string, label: string): HTMLElement {
    const field = h("input", { type: "number", step: "1", "data-key": key, "aria-label": `${key} of ${name} in ${key.endsWith("deg") ? "degrees" : "pixels"}` });
    field.disabled = !this.canChange;
    field.addEventListener("input", () => Number.isFinite(field.valueAsNumber) && this.set(name, { [key]: field.valueAsNumber }));
    field.addEventListener("blur", () => this.show());
    return h("label", {}, label, field);
  }

  private fill(detector: Detector): void {
    const row = this.rows.get(detector.name);
    if (!row) return;
    row.style.setProperty("--own", this.colour(detector.name));
    row.classList.toggle("selected", detector.name === this.selected);
    for (const field of row.querySelectorAll<HTMLInputElement>("input[data-key]")) {
      const value = String(Math.round(Number(detector[field.dataset.key!]) * 10) / 10);
      if (document.activeElement !== field && field.value !== value) field.value = value;
    }
    const isSeen = !prefs.prefs.unseen.includes(detector.name);
    const eye = row.querySelector(".eye")!;
    say(eye, isSeen ? "◉" : "○");
    eye.setAttribute("aria-pressed", String(isSeen));
  }

  find(name: string): api.Reduction | undefined {
    return this.list.find((entry) => entry.name === name);
  }

  private select(name: string): void {
    if (this.selected === name) return;
    this.selected = name;
    this.detectors.forEach((detector) => this.fill(detector));
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
    // A name alone says that something stays as it is, so what cannot be sent whole cannot be renamed.
    const canBe = isName && !isTaken && shapes.isShape(this.find(name)!);
    if (wanted === name || !canBe) {
      if (wanted !== name) this.failed(`${JSON.stringify(wanted)} is not a new name: letters, digits, . _ - and not in use`);
      field.value = name;
      return;
    }
    prefs.prefs.colours[wanted] = this.colour(name);
    prefs.keep();
    this.edit(() => (this.find(name)!.name = wanted));
  }

  private set(name: string, numbers: Numbers): void {
    const detector = this.find(name);
    if (detector && shapes.isShape(detector)) this.edit(() => shapes.set(detector, numbers, this.extent));
  }

  // On the pattern.

  private draw(): void {
    const drawn = this.detectors.map((detector): Drawn | undefined => {
      const total = this.total(detector);
      const row = this.rows.get(detector.name);
      if (row) say(row.querySelector(".value")!, total === undefined ? "" : format.value(total));
      if (!shapes.isDrawn(detector) || prefs.prefs.unseen.includes(detector.name)) return undefined;
      const isSelected = detector.name === this.selected && total !== undefined;
      return { detector, colour: this.colour(detector.name), label: isSelected ? `${detector.name}  ${format.value(total)}` : detector.name };
    });
    this.drawing.draw(drawn.filter((one) => one !== undefined), this.selected);
  }

  // As they are drawn, for a picture that is kept.
  get outlines(): Outline[] {
    const seen = this.detectors.filter((detector) => shapes.isDrawn(detector) && !prefs.prefs.unseen.includes(detector.name));
    return seen.map((detector) => ({ path: shapes.area(detector), colour: this.colour(detector.name), name: detector.name, at: shapes.top(detector) }));
  }

  // What a detector reads in the pattern that is shown: at once, while the receiver still computes its image.
  private total(detector: Detector): number | undefined {
    const { checksum, measured } = this.pane.element.dataset;
    if (!shapes.isDrawn(detector) || checksum === undefined || measured === "0") return undefined;
    const of = `${checksum} ${JSON.stringify(detector)}`;
    const known = this.totals.get(detector.name);
    if (known?.[0] === of) return known[1];
    const total = shapes.total(detector, this.pane.plane);
    this.totals.set(detector.name, [of, total]);
    return total;
  }
}
