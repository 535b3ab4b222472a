// The drawer on the right: data sets on disk, the last two minutes, and what is known of the scan.

import * as api from "./api";
import { choice, h, say } from "./dom";
import * as format from "./format";
import { STATES } from "./head";
import type { Health } from "./health";

export type Tab = "data" | "history" | "about";

const TABS: [Tab, string][] = [["data", "Data sets"], ["history", "Last 2 min"], ["about", "Metadata"]];
const SHAPES: Record<string, string> = { died: "✕", unreadable: "?" };

export class Drawer {
  readonly element = h("aside", { class: "drawer", id: "drawer", "aria-label": "Data sets, history, metadata" });
  readonly opener = h("button", { type: "button", "aria-expanded": "false", "aria-controls": "drawer" }, "Data sets");
  private readonly body = h("div", { class: "drawer-body" });
  private tab: Tab = "data";
  private sets: api.DataSet[] | undefined;
  private shown = "";

  constructor(private readonly health: Health) {
    this.element.hidden = true;
    this.opener.addEventListener("click", () => (this.element.hidden ? this.open(this.tab) : this.close()));
    document.addEventListener("keydown", (event) => event.key === "Escape" && !this.element.hidden && this.close());
  }

  open(tab: Tab): void {
    this.tab = tab;
    this.element.hidden = false;
    this.opener.setAttribute("aria-expanded", "true");
    const close = h("button", { type: "button", class: "quiet", title: "Close", "aria-label": "close the drawer", click: () => this.close() }, "×");
    this.element.replaceChildren(h("div", { class: "drawer-head" }, choice("What the drawer shows", TABS, tab, (tab) => this.open(tab as Tab)), close), this.body);
    this.shown = "";
    this.body.replaceChildren();
    void this.poll();
  }

  close(): void {
    this.element.hidden = true;
    this.opener.setAttribute("aria-expanded", "false");
    this.opener.focus();
  }

  async poll(): Promise<void> {
    if (this.element.hidden || this.tab !== "data") return;
    this.sets = await api.dataSets().catch(() => this.sets);
  }

  show(status: api.Status | undefined, current: api.Acquisition | undefined, reductions: api.Reduction[]): void {
    if (this.element.hidden || !status) return;
    if (this.tab === "history") return this.showHistory();
    const content = this.tab === "data" ? this.listed(status) : described(status, current, reductions);
    const as = content.map((child) => child.outerHTML).join("");
    if (as === this.shown) return; // What is being read or copied stays where it is.
    this.shown = as;
    this.body.replaceChildren(...content);
  }

  private listed(status: api.Status): HTMLElement[] {
    // Of receivers that list no directory: what they remember.
    const sets = this.sets ?? status.acquisitions.filter(({ path }) => path !== null).map(remembered);
    const where = status.disk.directory ?? "nowhere: this is a preview";
    const free = status.disk.free_bytes === null ? "" : `, ${format.si(status.disk.free_bytes, "B")} free`;
    const none = h("p", { class: "hint" }, "None yet: a scan that is recorded appears here with its first frame.");
    return [h("p", { class: "hint path" }, `${where}${free}`), ...(sets.length > 0 ? sets.map((set) => row(set, status.time_ns)) : [none])];
  }

  private showHistory(): void {
    const plots = this.health.history();
    if (this.body.childElementCount !== plots.length) {
      this.body.replaceChildren(...plots.map(() => h("figure", { class: "plot" }, h("figcaption"), h("canvas"), h("small", {}, "2 min ago"), h("small", {}, "now"))));
    }
    plots.forEach(({ label, values, inWords, draw }, index) => {
      const figure = this.body.children[index]!;
      const highest = Math.max(0, ...values);
      say(figure.querySelector("figcaption")!, `${label}: ${inWords(values.at(-1) ?? 0)}, at most ${inWords(highest)}`);
      draw(figure.querySelector("canvas")!);
    });
  }
}

function remembered(acquisition: api.Acquisition): api.DataSet {
  const { name, id, state, durable_count, frame_bytes, gaps, started_ns } = acquisition;
  const lost = Object.values(gaps).reduce((sum, frames) => sum + frames, 0);
  const created = new Date(started_ns / 1e6).toISOString();
  return { name, path: acquisition.path!, uuid: id, created, state, frames: durable_count, bytes: durable_count * frame_bytes, gaps: lost, open: state === "running" };
}

function row(set: api.DataSet, now_ns: number): HTMLElement {
  const [shape, word, mood] = STATES[set.state as api.State] ?? [SHAPES[set.state] ?? "?", set.state, "bad"];
  const created = set.created === null ? undefined : new Date(set.created);
  const age = created ? `${format.duration((now_ns / 1e6 - created.getTime()) / 1000)} ago` : "";
  const facts = [`${format.count(set.frames)} frames`, format.si(set.bytes, "B"), set.gaps > 0 ? `${format.count(set.gaps)} missing` : "no gaps", ...(set.open ? ["being written"] : [])];
  const copy = h("button", { type: "button", class: "quiet", "aria-label": `copy the Python line that opens ${set.name}` }, "Copy Python");
  copy.addEventListener("click", () => void copyPython(set.path, copy));
  return h(
    "article",
    { class: "data-set", "data-name": set.name },
    h("div", { class: "state", "data-mood": mood, title: word }, h("i", { "aria-hidden": "true" }, shape), h("b", {}, set.name)),
    h("span", { class: "age", title: created ? format.moment(created.getTime()) : "" }, age),
    h("span", { class: set.gaps > 0 ? "facts bad" : "facts" }, `${word} · ${facts.join(" · ")}`),
    copy,
  );
}

async function copyPython(path: string, button: HTMLButtonElement): Promise<void> {
  const text = `import zarr\nframes = zarr.open_array(${JSON.stringify(`${path}/frames`)}, mode="r")  # (frame, y, x)\n`;
  try {
    await navigator.clipboard.writeText(text);
    say(button, "Copied");
    setTimeout(() => say(button, "Copy Python"), 1500);
  } catch {
    button.replaceWith(h("code", {}, text)); // Not allowed here: to be copied by hand.
  }
}

function described(status: api.Status, current: api.Acquisition | undefined, reductions: api.Reduction[]): HTMLElement[] {
  const link = (path: string) => h("a", { href: path, target: "_blank" }, path);
  const facts: [string, string | HTMLElement][] = [["receiver", `ronchi ${status.version}, up for ${format.duration(status.uptime_ns / 1e9)}`], ["links", status.links.map(({ name }) => name).join(", ")]];
  if (current) {
    const ended = current.ended_ns === null ? "" : format.moment(current.ended_ns / 1e6);
    const gaps = Object.entries(current.gaps).filter(([, frames]) => frames > 0).map(([reason, frames]) => `${format.count(frames)} ${reason.replaceAll("_", " ")}`);
    facts.push(["name", current.name], ["identity", current.id], ["path", current.path ?? "not recorded"], ["state", current.state], ["began", format.moment(current.started_ns / 1e6)], ["ended", ended || "not yet"]);
    facts.push(["scan", current.scan ? `${current.scan.join(" × ")} positions` : "no shape"], ["frames", `${format.count(current.visible)} of ${current.frame_count === null ? "unknown" : format.count(current.frame_count)}, ${format.si(current.frame_bytes, "B")} each`], ["missing", gaps.join(", ") || "nothing"]);
    facts.push(["results", current.results.map(({ name, shape }) => `${name} ${shape.join("×")}`).join(", ")]);
  }
  facts.push(["numbers", link("/api/v1/status")], ["metrics", link("/metrics")]);
  const list = h("dl", {}, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  return [list, h("h2", {}, "Computed from every frame"), h("pre", {}, reductions.map((entry) => JSON.stringify(entry)).join("\n"))];
}
