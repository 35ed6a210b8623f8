/** Who we are to the API: nobody in particular in development, else the bearer of a token, which lives in memory only. */

import { computed, signal } from "@preact/signals";
import type { Config } from "../config";

export class Session {
  readonly #token = signal<string | null>(null);
  /** Why there is no token any more. */
  readonly notice = signal<string | null>(null);

  constructor(private readonly mode: Config["auth"]) {}

  readonly isOpen = computed(() => this.mode === "dev" || this.#token.value !== null);

  authorization(): string | null {
    return this.#token.value === null ? null : `Bearer ${this.#token.value}`;
  }

  get hasToken(): boolean {
    return this.#token.value !== null;
  }

  open(token: string): void {
    this.notice.value = null;
    this.#token.value = token.trim().replace(/^Bearer\s+/i, "");
  }

  /** The API has refused the token, or somebody wants to leave. */
  close(notice: string | null = null): void {
    this.notice.value = notice;
    this.#token.value = null;
  }
}
