// The live view: reads the receiver's state, listens to its images, and puts both on the page.

import * as api from "./api";
import * as banners from "./banners";
import { Picture } from "./codec";
import { Detectors } from "./detectors";
import { choice, h, svg } from "./dom";
import { Drawer } from "./drawer";
import { FieldLine, isFromZero, reductionOf } from "./field";
import * as format from "./format";
import { Head, done } from "./head";
import { Health } from "./health";
import { type About, Pane } from "./pane";
import * as prefs from "./prefs";
import { Recorder } from "./recorder";
import { Session } from "./session";
import * as shapes from "./shapes";
import { Stream } from "./stream";

const POLL_MS = 400;
const FRAME_MS = 250;
const REDUCTIONS_MS = 2000;
const SLOW_MS = 1000;
const STALE_S = 1;
const PANES_MAX = 6;

const element = (id: string) => document.getElementById(id)!;
const chosen = { id: "latest", position: undefined as [number, number] | undefined };
let status: api.Status | undefined;
let answeredAt = performance.now();
let refusal: banners.Banner | undefined;
let framePicture: { acquisition: string; which: string; picture: Picture } | undefined;
let frameRefusal = "";
const panes = new Map<string, Pane>();

const current = () => status?.acquisitions.find((acquisition) => acquisition.id === chosen.id) ?? status?.acquisitions[0];
const isOver = (acquisition: api.Acquisition | undefined) => acquisition !== undefined && ["complete", "interrupted", "failed"].includes(acquisition.state);
const isPattern = (result: api.Result) => result.axes.join() === "sig_y,sig_x";
const isImage = (result: api.Result) => result.axes[0] === "scan_y" && result.axes[1] === "scan_x" && (result.axes.length === 2 || (result.axes.length === 3 && result.axes[2] === "component"));

// Diffraction.

const sources = h("div", { class: "sources" });
const pattern = new Pane({
  key: "diffraction",
  title: h("h2", {}, "Diffraction"),
  stretch: "sqrt",
  map: "gray",
  tools: [],
  unit: () => (prefs.prefs.mradPerPx ? { unit: "mrad", perPixel: prefs.prefs.mradPerPx } : undefined),
  about: () => about(source(current()), []),
  outlines: () => detectors.outlines,
  failed: fail,
  readout: (y, x) => {
    const [cy, cx] = detectors.centre ?? [pattern.plane.height / 2, pattern.plane.width / 2];
    const [dy, dx] = [y - cy, x - cx];
    const r = Math.hypot(dy, dx);
    const angle = prefs.prefs.mradPerPx ? `  ${(r * prefs.prefs.mradPerPx).toFixed(1)} mrad` : "";
    return `y ${y}  x ${x}  r ${r.toFixed(1)} px${angle}`;
  },
});
const detectors: Detectors = new Detectors(pattern, update, fail);

// Says what the receiver did not do, until it does something again. Control that somebody else has can be taken once it is free.
function fail(text: string, error?: Error): void {
  const isTaken = error instanceof api.Refused && error.status === 409 && session.hasRoles;
  const action: banners.Banner["action"] = isTaken ? ["Take control", () => void api.takeControl().then(() => fail(""), (error: Error) => fail(`Control stays where it is: ${error.message}`, error))] : undefined;
  refusal = text === "" ? undefined : { id: "refused", mood: "attention", text, action };
  update();
}

// What is told of a picture that is kept.
function about(result: string, more: string[]): About {
  const acquisition = current();
  const now = new Date();
  const reduction = detectors.list.find((entry) => entry.name === result);
  const position = result === "position" ? chosen.position : undefined;
  const [day, time] = format.moment(now.getTime()).split(" ");
  const name = acquisition?.name ?? "no-scan";
  return {
    file: `${name}_${[result, ...(position ?? [])].join("-")}_${day}T${time!.replaceAll(":", "")}`,
    lines: [`${name}  ·  ${day} ${time}`, ...(position ? [`frame at y ${position[0]}, x ${position[1]}`] : []), ...more],
    facts: {
      program: `ronchi ${status?.version ?? ""}`, saved: now.toISOString(), acquisition: acquisition?.id, name, result, position, reduction,
      scan: acquisition?.scan, state: acquisition?.state, missing: acquisition?.missing, path: acquisition?.path,
      started: acquisition && new Date(acquisition.started_ns / 1e6).toISOString(),
    },
  };
}

function calibration(): HTMLElement {
  const field = (key: "stepNm" | "mradPerPx", label: string, unit: string) => {
    const input = h("input", { type: "number", min: "0", step: "any", placeholder: "–", "aria-label": `${label} in ${unit}`, value: String(prefs.prefs[key] ?? "") });
    input.addEventListener("input", () => {
      prefs.prefs[key] = input.valueAsNumber > 0 ? input.valueAsNumber : null;
      prefs.keep();
      [pattern, ...panes.values()].forEach((pane) => pane.refresh());
    });
    return h("label", {}, label, input, h("span", {}, unit));
  };
  return h("div", { class: "calibration" }, field("stepNm", "scan step", "nm"), field("mradPerPx", "camera", "mrad/px"));
}

// What the diffraction pane shows: latest, position, or the name of a pattern.
function source(acquisition: api.Acquisition | undefined): string {
  const patterns = acquisition?.results.filter(isPattern).map((result) => result.name) ?? [];
  const wanted = prefs.prefs.source;
  if (["latest", "position", ...patterns].includes(wanted)) return wanted;
  return patterns[0] ?? "latest";
}

let listedSources = "";
function showSources(acquisition: api.Acquisition | undefined): void {
  const patterns = acquisition?.results.filter(isPattern).map((result): [string, string] => [result.name, result.name]) ?? [];
  const where = chosen.position ? `at ${chosen.position.join(", ")}` : "at a position";
  const options: [string, string][] = [["latest", "latest"], ...patterns, ["position", where]];
  const listed = JSON.stringify([options, source(acquisition)]);
  if (listed === listedSources) return;
  listedSources = listed;
  sources.replaceChildren(
    choice("What the pattern shows", options, source(acquisition), (value) => {
      prefs.prefs.source = value;
      prefs.keep();
      void readFrame();
      update();
    }),
  );
}

let reading = false;
// A recorded frame, when one is to be shown.
async function readFrame(): Promise<void> {
  const acquisition = current();
  const from = source(acquisition);
  if (reading || !acquisition || (from !== "latest" && from !== "position")) return;
  const which = from === "latest" ? "latest" : chosen.position?.join(",");
  if (which === undefined) return;
  const isKnown = framePicture?.acquisition === acquisition.id && framePicture.which === which;
  if (isKnown && (from === "position" || isOver(acquisition))) return;
  reading = true;
  try {
    const framed = await api.frame(acquisition.id, which);
    framePicture = { acquisition: acquisition.id, which, picture: Picture.of(framed) };
    frameRefusal = "";
  } catch (error) {
    frameRefusal = (error as Error).message;
    framePicture = undefined;
  } finally {
    reading = false;
  }
  showPattern(acquisition);
}

function showPattern(acquisition: api.Acquisition | undefined): void {
  const from = source(acquisition);
  if (!acquisition) return pattern.show(undefined, false, 0, "The pattern of the detector appears here.");
  if (from !== "latest" && from !== "position") {
    const picture = stream.pictures.get(`${acquisition.id}/${from}`);
    return pattern.show(picture ?? pattern.blank, picture !== undefined, Infinity, "Waiting for the first frames.");
  }
  const isThis = framePicture?.acquisition === acquisition.id && (from === "latest") === (framePicture.which === "latest");
  const hint = from === "position" && !chosen.position ? "Click a position in an image to see its frame." : frameRefusal || "Reading the frame.";
  pattern.show(isThis ? framePicture!.picture : undefined, true, Infinity, hint);
}

// Virtual images.

function imagePane(name: string): Pane {
  const title = h("h2", { class: "own" }, name);
  const hide = h("button", { type: "button", class: "quiet", title: "Hide", "aria-label": `hide ${name}` }, "–");
  hide.addEventListener("click", () => {
    prefs.prefs.hidden.push(name);
    prefs.keep();
    update();
  });
  const line = new FieldLine((reduction, parameters) => detectors.amend(reduction, parameters));
  const asField = h("button", { type: "button", class: "quiet", title: "The field in the axes of the scan, with rotation and descan", "aria-label": `field of ${name}` }, "field");
  asField.addEventListener("click", () => detectors.amend(name, { also: [...((detectors.find(name)?.also as string[] | undefined) ?? []), "field"] }));
  const pane: Pane = new Pane({
    key: name,
    line: line.element,
    isFromZero: () => isFromZero(name, detectors.list),
    title,
    stretch: "linear",
    map: "gray",
    tools: [asField, hide],
    unit: ({ axes }) => (prefs.prefs.stepNm ? { unit: "nm", perPixel: prefs.prefs.stepNm * (axes[0]?.scale ?? 1) } : undefined),
    about: () => {
      const detector = detectors.detectors.find((one) => one.name === name);
      return about(name, detector ? [`${shapes.inWords(detector)}  (detector px)`] : []);
    },
    whole: async () => Picture.of(await api.result(current()!.id, name)),
    failed: fail,
    readout: (y, x) => {
      const [py, px] = [pixels(name)(y, 0, true), pixels(name)(x, 1, true)];
      const step = prefs.prefs.stepNm;
      return `y ${py}  x ${px}${step ? `  (${(py * step).toFixed(1)}, ${(px * step).toFixed(1)}) nm` : ""}`;
    },
    pick: (y, x) => pick(Math.round(pixels(name)(y, 0, true)), Math.round(pixels(name)(x, 1, true))),
    nudge: (dy, dx) => chosen.position && pick(chosen.position[0] + dy, chosen.position[1] + dx),
  });
  pane.element.dataset.name = name;
  pane.onUpdate = () => {
    line.show(reductionOf(name, detectors.list), session.canChange);
    const own = detectors.find(name);
    asField.hidden = own?.kind !== "com" || !session.canChange || (own.also as string[] | undefined)?.includes("field") === true;
  };
  pane.drawOverlay = () => pane.overlay.replaceChildren(...pane.beginning(), ...pane.scaleBar(), ...marker(pane, name));
  return pane;
}

// Scan positions of the pixels of an image, which may be binned: a length, or a place along an axis.
function pixels(name: string): (value: number, axis: number, isPlace?: boolean) => number {
  const axes = stream.pictures.get(`${current()?.id}/${name}`)?.axes ?? [];
  return (value, axis, isPlace = false) => {
    const { scale, offset, unit } = axes[axis] ?? { scale: 1, offset: 0, unit: "px" };
    if (unit !== "px") return value;
    return value * scale + (isPlace ? offset : 0);
  };
}

function pick(y: number, x: number): void {
  const [height, width] = current()?.scan ?? [0, 0];
  chosen.position = [Math.min(Math.max(0, y), Math.max(0, height - 1)), Math.min(Math.max(0, x), Math.max(0, width - 1))];
  prefs.prefs.source = "position";
  prefs.keep();
  void readFrame();
  [...panes.values()].forEach((pane) => pane.refresh());
  update();
}

function marker(pane: Pane, name: string): SVGElement[] {
  if (!chosen.position || source(current()) !== "position") return [];
  const axes = stream.pictures.get(`${current()?.id}/${name}`)?.axes ?? [];
  const [y, x] = chosen.position.map((at, axis) => ((at - (axes[axis]?.offset ?? 0)) / (axes[axis]?.scale ?? 1) + 0.5) * pane.scale) as [number, number];
  const line = (x1: number, y1: number, x2: number, y2: number) => ["marker-edge", "marker"].map((kind) => svg("line", { x1, y1, x2, y2, class: kind }));
  return [...line(x - 12, y, x - 4, y), ...line(x + 4, y, x + 12, y), ...line(x, y - 12, x, y - 4), ...line(x, y + 4, x, y + 12)];
}

const more = h("div", { class: "more" });
const tiles = h("div", { class: "tiles" });
const empty = h("div", { class: "empty" });
let listedImages = "";

function showImages(acquisition: api.Acquisition | undefined): string[] {
  const all = acquisition?.results.filter(isImage).map((result) => result.name) ?? [];
  const isDetector = (name: string) => detectors.detectors.some((detector) => detector.name === name);
  const images = [...all.filter(isDetector), ...all.filter((name) => !isDetector(name))];
  const shown = images.filter((name) => !prefs.prefs.hidden.includes(name)).slice(0, PANES_MAX);
  const listed = JSON.stringify([images, shown]);
  if (listed !== listedImages) {
    listedImages = listed;
    for (const name of panes.keys()) if (!images.includes(name)) panes.delete(name);
    for (const name of shown) if (!panes.has(name)) panes.set(name, imagePane(name));
    tiles.replaceChildren(...shown.map((name) => panes.get(name)!.element));
    tiles.style.setProperty("--columns", String(shown.length <= 1 ? 1 : shown.length <= 4 ? 2 : 3));
    tiles.style.setProperty("--rows", String(shown.length <= 2 ? 1 : 2));
    const rest = images.filter((name) => !shown.includes(name));
    more.replaceChildren(...rest.map((name) => h("button", { type: "button", class: "quiet", click: () => bring(name) }, `+ ${name}`)));
  }
  const lost = Math.max(acquisition?.missing ?? 0, acquisition?.quality.missing ?? 0);
  for (const name of shown) {
    const pane = panes.get(name)!;
    pane.element.style.setProperty("--own", isDetector(name) ? detectors.colour(name) : "var(--text)");
    const picture = stream.pictures.get(`${acquisition!.id}/${name}`);
    pane.show(picture ?? pane.blank, picture !== undefined && isOver(acquisition), lost, "Waiting for the first row.");
  }
  return shown;
}

function bring(name: string): void {
  const { hidden } = prefs.prefs;
  prefs.prefs.hidden = hidden.filter((other) => other !== name);
  const shown = [...tiles.children].map((child) => (child as HTMLElement).dataset.name!);
  if (!hidden.includes(name) && shown.length >= PANES_MAX) prefs.prefs.hidden.push(shown.at(-1)!);
  prefs.keep();
  update();
}

let emptyAs = "";
function showEmpty(acquisition: api.Acquisition | undefined, shown: string[]): void {
  empty.hidden = shown.length > 0;
  tiles.hidden = shown.length === 0;
  if (shown.length > 0) return;
  const content = acquisition ? withoutImages(acquisition) : withoutScan();
  const as = content.map((child) => child.textContent).join("\n");
  if (as === emptyAs) return;
  emptyAs = as;
  empty.replaceChildren(...content);
}

function withoutImages(acquisition: api.Acquisition): HTMLElement[] {
  if (acquisition.scan) {
    return [h("h2", {}, "No virtual image yet"), h("p", {}, "Add a disk or a ring on the left: its image of this scan appears here, from the first row on.")];
  }
  return [
    h("h2", {}, "This series has no scan shape"),
    h("p", {}, `${format.count(done(acquisition))} frames have come; without rows and columns they make no image. Tell the receiver the shape:`),
    h("code", {}, "ronchi record … --scan 256x256"),
  ];
}

function withoutScan(): HTMLElement[] {
  if (session.isLocked) return [h("h2", {}, "A token is needed"), h("p", {}, "Whoever runs the receiver makes one for you (ronchi token new). It stays in this tab, and is gone with it.")];
  if (!status) return [h("h2", {}, "Connecting"), h("p", {}, "The receiver has not answered yet.")];
  const links = status.links.map((link) => `${link.name}: ${link.connected ? "connected, waits for a scan" : "not connected"}`);
  const { directory, free_bytes } = status.disk;
  const where = directory === null ? "Nothing will be recorded: this is a preview." : `Frames will be written to ${directory}${free_bytes === null ? "" : `, where ${format.si(free_bytes, "B")} are free`}.`;
  return [
    h("h2", {}, "No scan yet"),
    h("p", {}, "Arm the detector and start a scan: its images fill in here row by row, and the pattern on the left."),
    h("ul", {}, ...links.map((text) => h("li", {}, text))),
    h("p", {}, where),
    h("p", {}, "No detector at hand? This one sends a synthetic specimen:"),
    h("code", {}, "ronchi simulate merlin --trigger now --scan 128x128"),
  ];
}

// All of it.

const stream = new Stream(
  (key, picture) => {
    const acquisition = current();
    const [id, name] = [key.slice(0, key.indexOf("/")), key.slice(key.indexOf("/") + 1)];
    if (id !== acquisition?.id) return;
    if (name === source(acquisition)) pattern.show(picture, true, Infinity);
    const pane = panes.get(name);
    pane?.show(picture, isOver(acquisition), Math.max(acquisition.missing, picture.quality.missing));
  },
  () => !session.isLocked,
);
const session = new Session(update);
const recorder = new Recorder((error) => fail(error ? `Recording is as it was: ${error.message}` : "", error), update);
const health: Health = new Health(element("health"), () => drawer.open("history"));
const drawer = new Drawer(health);
const notices = h("div");
const head = new Head(
  element("head"),
  (id) => {
    chosen.id = id;
    update();
  },
  () => {
    prefs.prefs.theme = theme() === "dark" ? "light" : "dark";
    prefs.keep();
    applyTheme();
  },
  [recorder.element, drawer.opener],
);

// What was chosen here, or what the system prefers.
const isLightPreferred = matchMedia("(prefers-color-scheme: light)");
const theme = () => prefs.prefs.theme ?? (isLightPreferred.matches ? "light" : "dark");

function applyTheme(): void {
  document.documentElement.dataset.theme = theme();
}

// Puts the present state on the page.
function update(): void {
  const acquisition = current();
  const silent_s = (performance.now() - answeredAt) / 1000;
  const isConnected = silent_s <= STALE_S && status !== undefined;
  head.show(status, acquisition, session.isLocked ? "locked" : isConnected ? "online" : "offline", health.frameRate, session.canChange);
  const notes = banners.needed(status, acquisition, session.isLocked ? 0 : silent_s, health.diskLeft_s);
  if (refusal) notes.push(refusal);
  banners.show(notices, notes);
  recorder.show(status?.acquisitions[0], session.canChange);
  detectors.allow(session.canChange);
  drawer.show(status, acquisition, detectors.list);
  showSources(acquisition);
  const shown = showImages(acquisition);
  showEmpty(acquisition, shown);
  showPattern(acquisition);
  const isStill = acquisition?.state === "running" && !api.isFinishing(acquisition) && health.age_s > STALE_S;
  document.body.classList.toggle("stale", !isConnected || isStill);
  document.body.classList.toggle("offline", !isConnected);
  const from = source(acquisition);
  const patterns = acquisition?.results.some((result) => isPattern(result) && result.name === from) ? [from] : [];
  if (acquisition) stream.subscribe([...shown, ...patterns].map((name) => `v1/${acquisition.id}/${name}`));
}

async function poll(): Promise<void> {
  if (session.isLocked) return update();
  try {
    status = await api.status();
    answeredAt = performance.now();
    health.take(status, current());
  } catch (error) {
    // Silence shows by itself, after a second. Whoever says that nobody is there (a proxy) is not the receiver.
    if (error instanceof api.Refused && error.status < 500) answeredAt = performance.now();
  }
  update();
}

// One after the other, never two at once.
function every(pause_ms: number, work: () => Promise<void>): void {
  void work().finally(() => setTimeout(() => every(pause_ms, work), pause_ms));
}

applyTheme();
pattern.element.querySelector(".pane-head")!.after(sources);
element("banners").append(session.element, notices);
document.body.append(drawer.element);
element("left").append(pattern.element, h("div", { class: "panel" }, detectors.element, calibration()));
element("grid").append(tiles, empty, more);
every(POLL_MS, poll);
every(FRAME_MS, readFrame);
every(SLOW_MS, async () => {
  await session.poll();
  if (!session.isLocked) await Promise.all([recorder.poll(), drawer.poll()]);
  update();
});
every(REDUCTIONS_MS, async () => {
  if (!session.isLocked) detectors.take(await api.reductions().catch(() => detectors.list));
});
