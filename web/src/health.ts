// The strip at the foot: how fast, how much is lost, how far behind, how long the disk lasts. Rates come from the
// differences of the receiver's totals.

import { type Acquisition, type Status, isFinishing } from "./api";
import { h, say } from "./dom";
import * as format from "./format";

const KEPT = 300; // Readings: two minutes.
const RATE_S = 2; // Rates are means over so many seconds.

interface Reading {
  time_s: number;
  frames: number;
  bytes: number;
  written: number;
  lost: number;
  backlog: number;
}

type Mood = "good" | "attention" | "bad" | "";

class Cell {
  readonly element: HTMLElement;
  private readonly number = h("strong");
  private readonly more = h("small");
  private readonly plot = h("canvas", { width: "1", height: "1", "aria-hidden": "true" });

  constructor(id: string, label: string) {
    this.element = h("button", { type: "button", class: "cell", id: `health-${id}`, title: "The last two minutes" }, h("span", { class: "label" }, label), this.number, this.more, this.plot);
  }

  say(number: string, more: string, mood: Mood): void {
    say(this.number, number);
    say(this.more, more);
    this.element.dataset.mood = mood;
  }

  draw(values: number[]): void {
    line(this.plot, values);
  }
}

// The newest value at the right edge, two minutes from edge to edge, 0 at the foot.
function line(plot: HTMLCanvasElement, values: number[]): void {
  const density = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(plot.clientWidth * density), Math.round(plot.clientHeight * density)];
  if (width === 0) return;
  if (plot.width !== width || plot.height !== height) [plot.width, plot.height] = [width, height];
  const context = plot.getContext("2d")!;
  context.clearRect(0, 0, width, height);
  const top = Math.max(...values, 1e-9);
  const y = (value: number) => height - 1 - (value / top) * (height - 2);
  const x = (index: number) => width - ((values.length - 1 - index) / (KEPT - 1)) * width;
  context.beginPath();
  values.forEach((value, index) => (index === 0 ? context.moveTo(x(index), y(value)) : context.lineTo(x(index), y(value))));
  context.strokeStyle = getComputedStyle(plot).color;
  context.lineWidth = density;
  context.stroke();
}

export interface History {
  label: string;
  values: number[];
  inWords: (value: number) => string;
  draw: (plot: HTMLCanvasElement) => void;
}

export class Health {
  private readonly cells = {
    rate: new Cell("rate", "frames"),
    bytes: new Cell("bytes", "data in"),
    lost: new Cell("lost", "lost"),
    backlog: new Cell("backlog", "backlog"),
    disk: new Cell("disk", "disk"),
    age: new Cell("age", "last frame"),
  };
  private readonly lamps = h("div", { class: "lamps", "aria-label": "Receivers" });
  private readings: Reading[] = [];
  private framesAt = 0;
  // Seconds since the number of frames last grew.
  age_s = Infinity;
  // Seconds until the disk is full at the present rate.
  diskLeft_s = Infinity;

  constructor(element: HTMLElement, openHistory: () => void) {
    Object.values(this.cells).forEach((cell) => cell.element.addEventListener("click", openHistory));
    element.append(...Object.values(this.cells).map((cell) => cell.element), this.lamps);
  }

  take(status: Status, current: Acquisition | undefined): void {
    const sum = (counter: string) => status.links.reduce((total, link) => total + Number(link[counter] ?? 0), 0);
    const raw = status.queues.find((queue) => queue.name === "raw")?.depth ?? 0;
    const lost = Math.max(current?.missing ?? 0, Object.values(current?.gaps ?? {}).reduce((total, frames) => total + frames, 0));
    const now: Reading = {
      time_s: status.uptime_ns / 1e9,
      frames: sum("frames"),
      bytes: sum("bytes"),
      written: sum("written_bytes"),
      lost,
      // Blocks may be sealed before they are full: frames received and not yet written are nearer to the truth.
      backlog: Math.min(raw * status.pool.slot_bytes, Math.max(0, sum("frames") - sum("written_frames")) * (current?.frame_bytes ?? 0)),
    };
    const last = this.readings.at(-1);
    if (last && now.time_s < last.time_s) this.readings = []; // Another receiver.
    if (!last || now.frames !== last.frames) this.framesAt = performance.now();
    this.readings.push(now);
    if (this.readings.length > KEPT) this.readings.shift();
    this.show(status, current, now);
  }

  // Of the last two minutes.
  history(): History[] {
    const rates = (counter: "frames" | "bytes" | "written") => this.readings.map((_, at) => this.rate(counter, at));
    const plots: [string, number[], (value: number) => string][] = [
      ["frames", rates("frames"), (value) => `${format.count(value)} /s`],
      ["data in", rates("bytes"), (value) => format.si(value, "B/s")],
      ["lost", this.readings.map((reading) => reading.lost), format.count],
      ["backlog", this.readings.map((reading) => reading.backlog), (value) => format.si(value, "B")],
      ["written", rates("written"), (value) => format.si(value, "B/s")],
    ];
    return plots.map(([label, values, inWords]) => ({ label, values, inWords, draw: (plot) => line(plot, values) }));
  }

  get frameRate(): number {
    return this.rate("frames");
  }

  private rate(counter: "frames" | "bytes" | "written", at = this.readings.length - 1): number {
    const now = this.readings[at];
    if (!now) return 0;
    let first = at;
    while (first > 0 && now.time_s - this.readings[first]!.time_s < RATE_S) first -= 1;
    const then = this.readings[first]!;
    return now.time_s > then.time_s ? (now[counter] - then[counter]) / (now.time_s - then.time_s) : 0;
  }

  private show(status: Status, current: Acquisition | undefined, now: Reading): void {
    const { rate, bytes, lost, backlog, disk, age } = this.cells;
    const input = this.rate("bytes");
    rate.say(`${format.count(this.rate("frames"))} /s`, `${format.count(now.frames)} in all`, "");
    bytes.say(`${format.si(input, "B/s")}`, `${format.si(now.bytes, "B")} in all`, "");
    const reasons = Object.entries(current?.gaps ?? {}).filter(([, frames]) => frames > 0);
    const why = reasons.map(([reason, frames]) => `${format.count(frames)} ${reason.replaceAll("_", " ")}`).join(", ");
    lost.say(`${format.count(now.lost)} lost`, now.lost > 0 ? why || "known to be missing" : now.frames > 0 ? "every frame is there" : "", now.lost > 0 ? "bad" : "good");
    const queue = status.queues.find((queue) => queue.name === "raw");
    const isFilling = queue !== undefined && queue.depth > queue.capacity / 2;
    const delay = input > 0 ? ` · ${format.count((now.backlog / input) * 1000)} ms` : "";
    const blocks = queue?.depth ?? 0;
    backlog.say(`${format.si(now.backlog, "B")}${delay}`, `${blocks} of ${queue?.capacity ?? 0} blocks`, isFilling ? "attention" : "good");
    this.showDisk(disk, status);
    this.age_s = now.frames === 0 ? Infinity : (performance.now() - this.framesAt) / 1000;
    const isLate = current?.state === "running" && !isFinishing(current) && this.age_s > 1;
    age.say(now.frames === 0 ? "none yet" : this.age_s < 1 ? "now" : `${format.duration(this.age_s)} ago`, isLate ? "the scan stands still" : "", isLate ? "attention" : "");
    const history = this.history();
    [rate, bytes, lost, backlog].forEach((cell, index) => cell.draw(history[index]!.values));
    this.showLamps(status, now.lost);
  }

  private showDisk(cell: Cell, status: Status): void {
    const places = status.disk.volumes.length > 0 ? status.disk.volumes : [status.disk];
    const free = places.reduce((total, place) => total + (place.free_bytes ?? 0), 0);
    const written = this.rate("written");
    this.diskLeft_s = written > 0 ? free / written : Infinity;
    if (status.disk.directory === null) return cell.say("not recording", "nothing is written", "attention");
    const mood = this.diskLeft_s < 120 ? "bad" : this.diskLeft_s < 900 ? "attention" : "good";
    cell.say(written > 0 ? `${format.duration(this.diskLeft_s)} left` : `${format.si(free, "B")} free`, written > 0 ? `${format.si(free, "B")} free · ${format.si(written, "B/s")}` : "nothing is written now", mood);
  }

  // A link knows what it lost when its scan ends; of the only link, everything that is lost is.
  private showLamps(status: Status, lost: number): void {
    const lamps = status.links.map((link) => {
      const gone = status.links.length === 1 ? lost : link.missing_frames;
      const connection = link.connected ? "connected" : "not connected";
      const word = gone > 0 ? `${connection}, ${format.count(gone)} lost` : connection;
      const [mood, shape] = gone > 0 ? ["bad", "▲"] : link.connected ? ["good", "●"] : ["off", "○"];
      return h("div", { class: "lamp", "data-mood": mood, title: link.name }, h("i", { "aria-hidden": "true" }, shape), h("span", {}, link.name), h("small", {}, word));
    });
    this.lamps.replaceChildren(...lamps);
  }
}
