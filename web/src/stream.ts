// The WebSocket: connects again by itself, and holds the pictures that were asked for.

import * as api from "./api";
import { Picture, unframe } from "./codec";

const RETRY_MS = [250, 500, 1000, 2000];

export class Stream {
  readonly pictures = new Map<string, Picture>();
  connected = false;
  bytes = 0;
  private socket: WebSocket | undefined;
  private topics: string[] = [];
  private attempts = 0;

  constructor(
    private readonly onPicture: (key: string, picture: Picture) => void,
    private readonly mayConnect: () => boolean,
  ) {
    setTimeout(() => void this.connect()); // Who looks is known a moment later.
  }

  // Asks for these topics instead of those before.
  subscribe(topics: string[]): void {
    if (topics.join("\n") === this.topics.join("\n")) return;
    this.topics = topics;
    for (const key of this.pictures.keys()) if (!topics.includes(`v1/${key}`)) this.pictures.delete(key);
    this.ask();
  }

  private ask(): void {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify({ op: "sub", topics: this.topics, max_hz: 20, max_px: 1024, dtype: "<f4" }));
  }

  private async connect(): Promise<void> {
    const url = new URL("/api/v1/live", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (!this.mayConnect()) return this.later();
    try {
      if (api.hasToken()) url.searchParams.set("ticket", (await api.ticket()).ticket);
    } catch {
      return this.later();
    }
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.connected = true;
      this.attempts = 0;
      this.ask();
    };
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = () => {
      this.connected = false;
      this.later();
    };
    this.socket = socket;
  }

  private later(): void {
    const pause = RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)];
    setTimeout(() => void this.connect(), pause);
  }

  private take(data: ArrayBuffer | string): void {
    if (typeof data === "string") return console.error("the receiver refused:", data);
    this.bytes += data.byteLength;
    const framed = unframe(data);
    const { header } = framed;
    if (header.result === undefined) return;
    const key = `${header.acq}/${header.result}`;
    let picture = this.pictures.get(key);
    if (!picture) this.pictures.set(key, (picture = new Picture()));
    if (picture.take(framed)) this.onPicture(key, picture);
  }
}
