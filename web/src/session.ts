// Who looks: what this page may do at the receiver, and the token that says so.

import * as api from "./api";
import { h, say } from "./dom";

export class Session {
  // The form for a token, while one is asked for.
  readonly element: HTMLFormElement;
  private readonly why = h("span");
  private me: api.Me | undefined;
  private isRefused = false;

  constructor(private readonly changed: () => void) {
    const field = h("input", { type: "password", name: "token", autocomplete: "off", "aria-label": "token", placeholder: "token" });
    this.element = h("form", { class: "banner", id: "token", "data-mood": "attention" }, h("i", { "aria-hidden": "true" }, "▲"), this.why, field, h("button", { type: "submit" }, "Use it"));
    this.element.hidden = true;
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim() === "") return;
      api.useToken(field.value.trim());
      field.value = "";
      void this.poll();
    });
  }

  // A receiver without roles lets everybody do everything.
  get canChange(): boolean {
    return !this.isRefused && (this.me === undefined || this.me.role === "control");
  }

  get hasRoles(): boolean {
    return this.me?.auth === true;
  }

  get isLocked(): boolean {
    return this.isRefused || this.me?.role === null;
  }

  async poll(): Promise<void> {
    try {
      this.me = await api.me();
      this.isRefused = false;
    } catch (error) {
      if (error instanceof api.Refused && error.status === 401) this.isRefused = true;
    }
    this.element.hidden = !this.isLocked;
    say(this.why, api.hasToken() ? "The receiver does not know this token. Another one:" : "This receiver shows itself to those who have a token (ronchi token new):");
    this.changed();
  }
}
