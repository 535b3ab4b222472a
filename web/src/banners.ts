// What needs a hand, and which one. Anything else stays in the strip.

import { type Acquisition, type Status, isFinishing } from "./api";
import { h } from "./dom";
import * as format from "./format";

export interface Banner {
  id: string;
  mood: "attention" | "bad";
  text: string;
  action?: [label: string, act: () => void];
}

export function needed(status: Status | undefined, current: Acquisition | undefined, silent_s: number, diskLeft_s: number): Banner[] {
  const banners: Banner[] = [];
  const say = (id: string, mood: Banner["mood"], text: string) => banners.push({ id, mood, text });
  if (silent_s > 1) {
    const since = status ? ` and has not for ${format.duration(silent_s)}: what is shown is old` : "";
    say("offline", "bad", `The receiver does not answer${since}. If it has ended, start it again; this page connects by itself.`);
  }
  if (!status) return banners;
  const place = status.disk.volumes.map((volume) => volume.directory).join(", ") || status.disk.directory;
  const refused = current?.gaps["write_failed"] ?? 0;
  const isFull = current?.recording === true && status.disk.free_bytes !== null && status.disk.free_bytes < 2 * current.frame_bytes;
  if (refused > 0 || (isFull && current.missing > 0)) {
    say("disk-full", "bad", `The disk refused ${format.count(Math.max(refused, current!.missing))} frames: they are lost. Free space in ${place}, then start the scan again.`);
  } else if (current?.state === "failed") {
    const why = isFull ? "The disk is full" : "Recording failed (the receiver's log says why)";
    const kept = `${format.count(current.durable_count)} frames are kept, but the data set could not be finished`;
    say(isFull ? "disk-full" : "failed", "bad", `${why}: ${kept}. ${isFull ? `Free space in ${place}, then run` : "Run"} ronchi repair ${current.path ?? ""}.`);
  } else if (current?.state === "running" && diskLeft_s < 120) {
    say("disk-soon", "attention", `The disk is full in ${format.duration(diskLeft_s)}. Free space in ${place}, or stop the scan.`);
  }
  const gone = status.links.filter((link) => !link.connected);
  if (gone.length > 0 && current?.state === "running" && !isFinishing(current)) {
    say("detector", "bad", `No connection to ${gone.map((link) => link.name).join(", ")}: look whether the detector is on and its cable in. The receiver connects by itself.`);
  }
  if (current?.state === "running" && !current.recording) {
    say("preview", "attention", "Not recording: this is a preview, and its frames are gone when the scan ends. Record the next one to keep it.");
  }
  if (status.fallen.length > 0) say("fallen", "bad", `A bug: ${status.fallen.join(", ")} stopped. What was written is good. Please report it, and start the receiver again.`);
  return banners;
}

let shown = "";

export function show(element: HTMLElement, banners: Banner[]): void {
  const key = JSON.stringify(banners);
  if (key === shown) return;
  shown = key;
  const shapes = { attention: "▲", bad: "✕" };
  element.replaceChildren(...banners.map(({ id, mood, text, action }) => h("div", { class: "banner", id: `banner-${id}`, "data-mood": mood }, h("i", { "aria-hidden": "true" }, shapes[mood]), h("span", {}, text), ...(action ? [h("button", { type: "button", click: action[1] }, action[0])] : []))));
}
