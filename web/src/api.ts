// The HTTP API (docs/http-api.md), as far as the page needs it.

import { type Framed, unframe } from "./codec";

export type State = "waiting" | "running" | "complete" | "interrupted" | "failed";

export interface Result {
  name: string;
  shape: number[];
  axes: string[];
  version: number;
  frames: [number, number];
}

export interface Acquisition {
  id: string;
  name: string;
  path: string | null;
  state: State;
  recording: boolean;
  scan: [number, number] | null;
  frame_count: number | null;
  frame_bytes: number;
  visible: number;
  durable_count: number;
  missing: number;
  gaps: Record<string, number>;
  quality: { missing: number; dropped: number };
  started_ns: number;
  ended_ns: number | null;
  results: Result[];
}

// Every announced frame is there or known to be missing; results may still be finished from disk.
export function isFinishing(acquisition: Acquisition): boolean {
  return acquisition.state === "running" && acquisition.frame_count !== null && acquisition.visible >= acquisition.frame_count;
}

export interface Link {
  name: string;
  connected: boolean;
  frames: number;
  bytes: number;
  written_bytes: number;
  missing_frames: number;
  [counter: string]: number | string | boolean;
}

export interface Status {
  version: string;
  time_ns: number;
  uptime_ns: number;
  pool: { free: number; total: number; slot_bytes: number };
  queues: { name: string; depth: number; capacity: number }[];
  disk: { directory: string | null; free_bytes: number | null; volumes: { directory: string; free_bytes: number | null }[] };
  links: Link[];
  fallen: string[];
  acquisitions: Acquisition[];
}

export interface Reduction {
  name: string;
  kind?: string;
  [parameter: string]: unknown;
}

async function answer(path: string, init?: RequestInit): Promise<Response> {
  const response = await fetch(path, { ...init, signal: AbortSignal.timeout(5000) });
  if (response.ok) return response;
  const body = (await response.json().catch(() => ({}))) as { error?: string };
  throw new Refused(response.status, body.error ?? response.statusText);
}

// The receiver is there and says no.
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export async function status(): Promise<Status> {
  return (await answer("/api/v1/status")).json() as Promise<Status>;
}

export async function reductions(): Promise<Reduction[]> {
  return (await answer("/api/v1/reductions")).json() as Promise<Reduction[]>;
}

export async function changeReductions(list: Reduction[]): Promise<Reduction[]> {
  const headers = { "Content-Type": "application/json" };
  return (await answer("/api/v1/reductions", { method: "PUT", headers, body: JSON.stringify(list) })).json() as Promise<Reduction[]>;
}

// A result as it is now, in full size.
export async function result(acquisition: string, name: string): Promise<Framed> {
  return unframe(await (await answer(`/api/v1/acq/${acquisition}/result/${encodeURIComponent(name)}`)).arrayBuffer());
}

// `which`: latest, a number, or y,x of the scan.
export async function frame(acquisition: string, which: string): Promise<Framed> {
  return unframe(await (await answer(`/api/v1/acq/${acquisition}/frame/${which}`)).arrayBuffer());
}
