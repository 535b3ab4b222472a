// What turns a centre of mass, or a DPC signal, into a field in the axes of the scan: parameters of the receiver's reduction
// (docs/reductions.md), in a line above its picture.

import type { Reduction } from "./api";
import { h } from "./dom";

const SUBTRACTED: [string, string][] = [["", "nothing"], ["0", "mean"], ["1", "plane"]];

// The reduction whose field this result is, if it is one.
export function reductionOf(result: string, list: Reduction[]): Reduction | undefined {
  return list.find(({ name, kind }) => (kind === "com" && result === `${name}_field`) || (kind === "dpc" && result === name));
}

// Whether vectors of this result are measured from zero; a bare centre of mass is anywhere, and is measured from its mean.
export function isFromZero(result: string, list: Reduction[]): boolean {
  return !list.some(({ name, kind }) => kind === "com" && name === result);
}

export class FieldLine {
  readonly element = h("div", { class: "field-line" });
  private filled = "";

  constructor(private readonly amend: (name: string, parameters: Partial<Reduction>) => void) {}

  show(reduction: Reduction | undefined, canChange: boolean): void {
    this.element.hidden = reduction === undefined;
    const as = JSON.stringify([reduction, canChange]);
    if (!reduction || as === this.filled || this.element.contains(document.activeElement)) return;
    this.filled = as;
    const { name } = reduction;
    const number = (label: string, unit: string, value: unknown, set: (value: number | undefined) => Partial<Reduction>) => {
      const field = h("input", { type: "number", step: "any", placeholder: "mid", value: typeof value === "number" ? String(value) : "", "aria-label": `${label} of ${name}` });
      field.disabled = !canChange;
      field.addEventListener("change", () => this.amend(name, set(Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : undefined)));
      return h("label", {}, label, field, unit);
    };
    const [y, x] = (reduction.centre as [number, number] | undefined) ?? [];
    const centre = (place: [number | undefined, number | undefined]) => ({ centre: place[0] === undefined || place[1] === undefined ? undefined : place });
    const flip = h("input", { type: "checkbox", "aria-label": `flip y of ${name}` });
    [flip.checked, flip.disabled] = [reduction.flip_y === true, !canChange];
    flip.addEventListener("change", () => this.amend(name, { flip_y: flip.checked }));
    const parts: HTMLElement[] = [
      number("turn", "°", reduction.rotation_deg ?? 0, (value) => ({ rotation_deg: value ?? 0 })),
      h("label", { title: "Turns y around before it turns the field" }, flip, "flip y"),
    ];
    if (reduction.kind === "com") parts.push(this.subtracted(reduction, canChange));
    const dots = [y, x];
    const part = (label: string, axis: 0 | 1) => number(label, "", dots[axis], (value) => {
      dots[axis] = value;
      return centre([dots[0], dots[1]]);
    });
    parts.push(h("span", { class: "descan", title: "Where an undeflected beam is: descan offset. Empty: the middle of the detector" }, part("beam y", 0), part("x", 1)));
    this.element.replaceChildren(...parts);
  }

  // What descan leaves over the scan.
  private subtracted(reduction: Reduction, canChange: boolean): HTMLElement {
    const menu = h("select", { "aria-label": `subtracted from ${reduction.name}` }, ...SUBTRACTED.map(([value, text]) => h("option", { value }, text)));
    menu.value = String(reduction.regression ?? "");
    menu.disabled = !canChange;
    menu.addEventListener("change", () => this.amend(reduction.name, { regression: menu.value === "" ? undefined : Number(menu.value) }));
    return h("label", { title: "The mean of the field, or the plane through it that descan leaves" }, "minus", menu);
  }
}
