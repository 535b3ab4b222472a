// What the page remembers in this browser: layout, contrast, colours. Data and detectors are the receiver's.

import type { MapName, Stretch } from "./colour";

export interface PanePrefs {
  map?: MapName;
  stretch?: Stretch;
  held?: { limits: [number, number]; byHand: boolean }; // Contrast that does not follow the values.
  part?: string;
}

export interface Prefs {
  source: string;
  theme: "dark" | "light" | null; // null: as the system prefers.
  stepNm: number | null;
  mradPerPx: number | null;
  hidden: string[];
  panes: Record<string, PanePrefs>;
  colours: Record<string, string>;
  unseen: string[];
}

const KEY = "ronchi.view.1";
const DEFAULTS: Prefs = { source: "", theme: null, stepNm: null, mradPerPx: null, hidden: [], panes: {}, colours: {}, unseen: [] };

function load(): Prefs {
  try {
    return { ...structuredClone(DEFAULTS), ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Prefs>) };
  } catch {
    return structuredClone(DEFAULTS); // Not readable, or no storage: the page works without.
  }
}

export const prefs = load();

export function keep(): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(prefs));
  } catch {
    // Without storage nothing is remembered.
  }
}

export function pane(name: string): PanePrefs {
  return (prefs.panes[name] ??= {});
}

// Who this is: kept for this tab alone, and gone with it.
const TOKEN = "ronchi.token";

export function token(): string | null {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

export function keepToken(text: string): void {
  try {
    sessionStorage.setItem(TOKEN, text);
  } catch {
    // Without storage it lasts until the page is loaded again.
  }
}
