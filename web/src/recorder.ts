// Recording: whether frames are kept, under which name, and the two buttons that change it.

import * as api from "./api";
import { h, say } from "./dom";
import * as format from "./format";

export class Recorder {
  readonly element: HTMLElement;
  private readonly said = h("span", { class: "kept" });
  private readonly name = h("input", { class: "record-name", "aria-label": "name of the next recording", spellcheck: "false", maxlength: "100" });
  private readonly scan = h("input", { class: "record-scan", "aria-label": "scan shape of the next recording, rows x positions", placeholder: "rows × positions", title: "Rows × positions per row; empty: as the detector announces it" });
  private readonly start = h("button", { type: "submit", class: "record" }, h("i", { "aria-hidden": "true" }, "●"), "Record");
  private readonly stop = h("button", { type: "button", class: "stop" }, h("i", { "aria-hidden": "true" }, "■"), "Stop");
  private readonly dialog = h("dialog", { class: "panel", "aria-label": "Stop recording?" });
  private recording: api.Recording | undefined;

  constructor(
    private readonly failed: (error: Error | undefined) => void,
    private readonly changed: () => void,
  ) {
    const form = h("form", { class: "recorder", "aria-label": "Recording" }, this.said, this.name, this.scan, this.start, this.stop);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.begin();
    });
    this.stop.addEventListener("click", () => this.askToStop());
    this.element = h("div", {}, form, this.dialog);
  }

  async poll(): Promise<void> {
    this.recording = await api.recording().catch(() => this.recording);
  }

  // `current`: the newest scan; `canChange`: whether this page may.
  show(current: api.Acquisition | undefined, canChange: boolean): void {
    const { recording } = this;
    const isRunning = current?.state === "running";
    const can = (what: "start" | "stop") => canChange && recording !== undefined && recording.can.includes(what);
    this.name.hidden = this.scan.hidden = this.start.hidden = !can("start");
    this.stop.hidden = !can("stop");
    if (recording) this.name.placeholder = recording.name;
    const [mood, words] = this.inWords(current, isRunning);
    say(this.said, words);
    this.said.dataset.mood = mood;
    this.said.title = current?.path ?? "";
  }

  // Of the scan that runs, else of the next one, else (of a receiver that does not say) of the last.
  private inWords(current: api.Acquisition | undefined, isRunning: boolean): [mood: string, words: string] {
    const { recording } = this;
    if (isRunning || !recording) {
      if (!current) return ["", ""];
      return current.recording ? ["good", isRunning ? "● recorded" : "■ recorded"] : ["attention", "○ preview, not recorded"];
    }
    if (recording.recording) return ["", `◔ next scan: recorded as ${recording.name}`];
    return ["attention", `○ next scan: not recorded${recording.why_not ? `, ${recording.why_not}` : ""}`];
  }

  private async begin(): Promise<void> {
    const name = this.name.value.trim();
    const scan = format.scanShape(this.scan.value);
    if (scan === null) return this.failed(new Error(`a scan of ${JSON.stringify(this.scan.value)}: expected rows × positions per row, as 256x256`));
    await this.send({ action: "start", ...(name !== "" && { name }), ...(scan && { scan }) });
  }

  // The one thing that is asked back: what a scan lacks cannot be had again.
  private askToStop(): void {
    const stop = h("button", { type: "button", class: "stop" }, "Stop recording");
    const keep = h("button", { type: "button", autofocus: "" }, "Keep recording");
    stop.addEventListener("click", () => {
      this.dialog.close();
      void this.send({ action: "stop" });
    });
    keep.addEventListener("click", () => this.dialog.close());
    const what = `${this.recording?.name ?? "The scan"} ends here: what has come is kept and complete in itself, what is still to come is not recorded.`;
    this.dialog.replaceChildren(h("h2", {}, "Stop recording?"), h("p", {}, what), h("div", { class: "answers" }, keep, stop));
    this.dialog.showModal();
  }

  private async send(change: api.Change): Promise<void> {
    try {
      this.recording = await api.record(change);
      this.name.value = this.scan.value = "";
      this.failed(undefined);
    } catch (error) {
      this.failed(error as Error);
    }
    this.changed();
  }
}
