// Virtual detectors on the diffraction pattern: drawn over it, grabbed by their handles and edges.

import { say, svg } from "./dom";
import type { Pane } from "./pane";
import * as shapes from "./shapes";
import type { Detector, Numbers, Place } from "./shapes";

const HANDLE_PX = 5; // Radius of a handle; its halo is twice as large.
const LABELS: Record<string, string> = {
  centre: "centre", radius: "radius edge", inner: "inner edge", outer: "outer edge", from_deg: "first angle", to_deg: "last angle",
  y0: "upper edge", y1: "lower edge", x0: "left edge", x1: "right edge", y0x0: "upper left corner", y0x1: "upper right corner", y1x0: "lower left corner", y1x1: "lower right corner",
};

export interface Drawn {
  detector: Detector;
  colour: string;
  label: string;
}

export interface Hand {
  select: (name: string) => void;
  change: (name: string, numbers: Numbers) => void;
  release: () => void;
}

export class Drawing {
  isHeld = false;
  isLocked = false; // Shown, but not to be changed.
  private drawnAs = "";
  private structure = "";
  private drawn: Drawn[] = [];

  constructor(
    private readonly pane: Pane,
    private readonly hand: Hand,
  ) {}

  draw(drawn: Drawn[], selected: string): void {
    const { overlay, scale, plane } = this.pane;
    this.drawn = drawn;
    const bar = this.pane.scaleBar();
    const named = drawn.map(({ detector, colour }) => [detector.name, shapes.word(detector), colour]);
    const structure = JSON.stringify([named, selected, this.isLocked, bar.map((element) => element.outerHTML)]);
    const as = JSON.stringify([structure, drawn, scale, plane.height, plane.width]);
    if (as === this.drawnAs) return; // Pictures change far more often than what lies on them.
    this.drawnAs = as;
    // Nothing is replaced that only moves, and nothing at all under a pointer that holds a handle.
    if (this.isHeld || structure === this.structure) return drawn.forEach((one) => this.place(this.group(one.detector.name)!, one));
    this.structure = structure;
    const focused = document.activeElement?.getAttribute("data-handle");
    const isSelected = (one: Drawn) => one.detector.name === selected;
    // What is selected lies on top; while Tab goes from handle to handle their order stays.
    const isTabbed = overlay.contains(document.activeElement);
    const order = isTabbed ? drawn : [...drawn].sort((one, other) => Number(isSelected(one)) - Number(isSelected(other)));
    overlay.replaceChildren(...bar, ...order.map((one) => this.make(one, isSelected(one))));
    // A handle of another one would select that again.
    if (focused?.startsWith(`${selected}/`)) overlay.querySelector<SVGElement>(`[data-handle="${CSS.escape(focused)}"]`)?.focus();
  }

  private group(name: string): Element | null {
    return this.pane.overlay.querySelector(`[data-detector="${CSS.escape(name)}"]`);
  }

  private make(one: Drawn, isSelected: boolean): SVGElement {
    const { detector, colour } = one;
    const group = svg("g", { class: isSelected ? "shape selected" : "shape", "data-detector": detector.name });
    group.style.setProperty("--own", colour);
    group.append(svg("path", { class: "fill", "fill-rule": "evenodd" }));
    const parts = shapes.parts(detector);
    if (parts.length === 0) group.append(svg("path", { class: "edge", "data-part": "area" }));
    for (const part of parts) {
      if (shapes.edge(detector, part) === "") continue;
      const grip = svg("path", { class: "grip", "data-part": part });
      group.append(svg("path", { class: "edge", "data-part": part }), grip);
      if (!this.isLocked) this.grab(grip, detector.name, part);
    }
    group.append(svg("text", { class: "shape-name" }));
    if (!this.isLocked) group.append(...parts.map((part) => this.handle(detector.name, part)));
    this.place(group, one);
    return group;
  }

  // Centres of pixels lie at whole numbers: pixel 0 reaches from -0.5 to 0.5.
  private place(group: Element, { detector, label }: Drawn): void {
    const { scale } = this.pane;
    const to = `scale(${scale}) translate(0.5 0.5)`;
    const path = (selector: string, d: string) => {
      for (const element of group.querySelectorAll(selector)) {
        element.setAttribute("d", d);
        element.setAttribute("transform", to);
      }
    };
    path(".fill", shapes.area(detector));
    path('[data-part="area"]', shapes.area(detector));
    const name = group.querySelector(".shape-name")!;
    const [y, x] = shapes.top(detector);
    name.setAttribute("x", ((x + 0.5) * scale).toFixed(1));
    name.setAttribute("y", Math.max(14, (y + 0.5) * scale - 6).toFixed(1));
    say(name, label);
    for (const part of shapes.parts(detector)) {
      path(`.edge[data-part="${part}"], .grip[data-part="${part}"]`, shapes.edge(detector, part));
      const place = this.within(shapes.places(detector, part, 1 / scale));
      for (const element of group.querySelectorAll(`.handle[data-part="${part}"], .halo[data-part="${part}"]`)) {
        element.classList.toggle("absent", place === undefined);
        if (place) [element.setAttribute("cy", place[0].toFixed(1)), element.setAttribute("cx", place[1].toFixed(1))];
      }
    }
  }

  // Where a handle is drawn: on the picture if it can.
  private within(places: Place[]): Place | undefined {
    const { plane, scale } = this.pane;
    const [height, width] = [plane.height * scale, plane.width * scale];
    const onScreen = places.map(([y, x]): Place => [(y + 0.5) * scale, (x + 0.5) * scale]);
    const isIn = ([y, x]: Place) => y >= HANDLE_PX && x >= HANDLE_PX && y <= height - HANDLE_PX && x <= width - HANDLE_PX;
    return onScreen.find(isIn) ?? onScreen[0];
  }

  private handle(name: string, part: string): SVGElement {
    const group = svg("g", { class: "knob" });
    const knob = svg("circle", { class: "handle", r: HANDLE_PX, tabindex: 0, role: "button", "aria-label": `${LABELS[part]} of ${name}`, "data-handle": `${name}/${part}`, "data-part": part });
    group.append(svg("circle", { class: "halo", r: 2 * HANDLE_PX, "data-part": part }), knob);
    this.grab(group, name, part);
    knob.addEventListener("focus", () => this.hand.select(name));
    knob.addEventListener("keydown", (event) => {
      const { key, shiftKey } = event as KeyboardEvent;
      const [dy, dx] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key] ?? [0, 0];
      const detector = this.find(name);
      if (!detector || (dy === 0 && dx === 0)) return;
      event.preventDefault();
      event.stopPropagation();
      const step = shiftKey ? 10 : 1;
      this.hand.change(name, shapes.nudged(detector, part, dy! * step, dx! * step));
    });
    return group;
  }

  private find(name: string): Detector | undefined {
    return this.drawn.find(({ detector }) => detector.name === name)?.detector;
  }

  private grab(target: SVGElement, name: string, part: string): void {
    const at = (event: PointerEvent): Place => {
      const box = this.pane.overlay.getBoundingClientRect();
      return [(event.clientY - box.top) / this.pane.scale - 0.5, (event.clientX - box.left) / this.pane.scale - 0.5];
    };
    target.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      this.hand.select(name);
      const detector = this.find(name);
      if (!detector) return;
      // Being selected may have drawn it anew: what is held is what is there now.
      const held = this.pane.overlay.querySelector<SVGElement>(`[data-handle="${CSS.escape(`${name}/${part}`)}"]`) ?? target;
      held.focus();
      const [start, from] = [structuredClone(detector), at(event)];
      this.isHeld = true;
      held.setPointerCapture(event.pointerId);
      const move = (event: PointerEvent) => this.hand.change(name, shapes.dragged(start, part, from, at(event)));
      const release = () => {
        this.isHeld = false;
        this.drawnAs = "";
        held.removeEventListener("pointermove", move);
        this.hand.release();
      };
      held.addEventListener("pointermove", move);
      held.addEventListener("lostpointercapture", release, { once: true });
    });
    target.addEventListener("click", (event) => event.stopPropagation());
  }
}
