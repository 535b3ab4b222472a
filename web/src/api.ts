// The HTTP API (docs/http-api.md), as far as the page needs it.

import { type Framed, unframe } from "./codec";
import * as prefs from "./prefs";

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

// Who this page is, and what it may do.
export interface Me {
  role: "read" | "control" | null;
  auth: boolean; // Whether tokens are asked for at all.
  controller: boolean; // Whether control is ours at the moment.
}

export interface Recording {
  recording: boolean; // A series is being recorded, or the next one will be.
  can: ("start" | "stop")[];
  name: string; // Of the data set that is written, or that comes next.
  scan: [number, number] | null;
  links: string[];
  why_not: string | null;
}

export type Change = { action: "start"; name?: string; scan?: [number, number] } | { action: "stop" };

export interface DataSet {
  name: string;
  path: string;
  uuid: string | null;
  created: string | null;
  state: string;
  frames: number;
  bytes: number;
  gaps: number;
  open: boolean;
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

let token = prefs.token();

export function useToken(text: string): void {
  token = text;
  prefs.keepToken(text);
}

export function hasToken(): boolean {
  return token !== null;
}

async function answer(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  const response = await fetch(path, { ...init, headers, signal: AbortSignal.timeout(5000) });
  if (response.ok) return response;
  const body = (await response.json().catch(() => ({}))) as { error?: string };
  throw new Refused(response.status, body.error ?? response.statusText);
}

async function ask<T>(path: string): Promise<T> {
  return (await answer(path)).json() as Promise<T>;
}

async function send<T>(method: "PUT" | "POST", path: string, body: unknown): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  return (await answer(path, { method, headers, body: JSON.stringify(body) })).json() as Promise<T>;
}

const absent = new Set<string>();

// Something that not every receiver offers: undefined where it does not, and then it is not asked again.
async function offered<T>(path: string): Promise<T | undefined> {
  if (absent.has(path)) return undefined;
  try {
    return await ask<T>(path);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
    absent.add(path);
    return undefined;
  }
}

export const status = () => ask<Status>("/api/v1/status");
export const reductions = () => ask<Reduction[]>("/api/v1/reductions");
export const changeReductions = (list: Reduction[]) => send<Reduction[]>("PUT", "/api/v1/reductions", list);
export const me = () => offered<Me>("/api/v1/me");
export const takeControl = () => send<Me>("POST", "/api/v1/control", { action: "take" });
export const recording = () => offered<Recording>("/api/v1/recording");
export const record = (change: Change) => send<Recording>("POST", "/api/v1/recording", change);
export const dataSets = () => offered<DataSet[]>("/api/v1/datasets");
// Opens one WebSocket, which cannot carry a token.
export const ticket = () => send<{ ticket: string }>("POST", "/api/v1/ticket", {});

// A result as it is now, in full size.
export async function result(acquisition: string, name: string): Promise<Framed> {
  return unframe(await (await answer(`/api/v1/acq/${acquisition}/result/${encodeURIComponent(name)}`)).arrayBuffer());
}

// `which`: latest, a number, or y,x of the scan.
export async function frame(acquisition: string, which: string): Promise<Framed> {
  return unframe(await (await answer(`/api/v1/acq/${acquisition}/frame/${which}`)).arrayBuffer());
}
