// The row on top: which scan, in which state, how far.

import { type Acquisition, type State, type Status, isFinishing } from "./api";
import { h, say } from "./dom";
import * as format from "./format";

// Never by colour alone: each state has its word and its shape.
export const STATES: Record<State | "idle" | "finishing" | "offline" | "locked", [string, string, string]> = {
  idle: ["○", "idle", ""],
  waiting: ["◔", "waiting", "attention"],
  running: ["●", "scanning", "good"],
  finishing: ["◕", "finishing", "good"],
  complete: ["■", "complete", "good"],
  interrupted: ["▲", "interrupted", "attention"],
  failed: ["✕", "failed", "bad"],
  offline: ["✕", "no connection", "bad"],
  locked: ["▲", "no access", "attention"],
};

export type Contact = "online" | "offline" | "locked";

export class Head {
  private readonly names = h("select", { "aria-label": "Acquisition" });
  private readonly shape = h("i", { "aria-hidden": "true" });
  private readonly word = h("span");
  private readonly state = h("div", { class: "state", id: "state" }, this.shape, this.word);
  private readonly progress = h("span", { class: "progress" });
  private readonly line = h("div", { class: "progress-line" });
  private readonly role = h("span", { class: "role", title: "Your token may look, and change nothing" });
  private listed = "";

  constructor(element: HTMLElement, choose: (id: string) => void, theme: () => void, tools: HTMLElement[]) {
    this.names.addEventListener("change", () => choose(this.names.value));
    const switcher = h("button", { type: "button", class: "quiet", "aria-label": "Light or dark", title: "Light or dark", click: theme }, "◐");
    const right = h("div", { class: "right" }, this.role, ...tools, switcher);
    element.append(h("b", { class: "brand" }, "ronchi"), this.names, this.state, this.progress, right, this.line);
  }

  // `rate`: frames per second, for the time left.
  show(status: Status | undefined, current: Acquisition | undefined, contact: Contact, rate: number, canChange: boolean): void {
    this.list(status?.acquisitions ?? []);
    const [shape, word, mood] = STATES[contact !== "online" ? contact : !current ? "idle" : isFinishing(current) ? "finishing" : current.state];
    say(this.shape, shape);
    say(this.word, word);
    this.state.dataset.mood = mood;
    say(this.progress, current ? this.far(current, contact === "online" ? rate : 0) : "");
    const part = current ? done(current) / Math.max(1, total(current) ?? Infinity) : 0;
    this.line.style.width = `${Math.min(1, part) * 100}%`;
    say(this.role, canChange || contact === "locked" ? "" : "read-only");
    document.title = current && contact === "online" ? `${word} · ${current.name}` : "ronchi";
  }

  private far(current: Acquisition, rate: number): string {
    const [frames, all] = [done(current), total(current)];
    const width = current.scan?.[1];
    const where = width ? `row ${Math.min(current.scan![0], Math.floor(frames / width))} / ${current.scan![0]}` : `frame ${format.count(frames)}${all ? ` / ${format.count(all)}` : ""}`;
    if (current.state !== "running" || !all || rate <= 0) return where;
    return `${where} · ${format.duration((all - frames) / rate)} left`;
  }

  private list(acquisitions: Acquisition[]): void {
    const listed = JSON.stringify(acquisitions.map(({ id, name }) => [id, name]));
    if (listed === this.listed) return;
    this.listed = listed;
    const chosen = this.names.value;
    const options = acquisitions.map(({ id, name }, index) => h("option", { value: index === 0 ? "latest" : id }, name));
    this.names.replaceChildren(...(options.length > 0 ? options : [h("option", { value: "latest" }, "no scan yet")]));
    this.names.value = acquisitions.some(({ id }) => id === chosen) ? chosen : "latest";
    if (this.names.selectedIndex < 0) this.names.selectedIndex = 0;
  }
}

// Frames that have come, as far as anybody knows.
export function done(acquisition: Acquisition): number {
  return Math.max(acquisition.visible, ...acquisition.results.map((result) => result.frames[1]));
}

function total(acquisition: Acquisition): number | undefined {
  if (acquisition.frame_count !== null) return acquisition.frame_count;
  return acquisition.scan ? acquisition.scan[0] * acquisition.scan[1] : undefined;
}
