/**
 * Where a reader of an event log is, and which event may come next.
 *
 * Ids are `<attempt>-<sequence>`; sequences have no gaps, and a later attempt begins at 0 or, when its first entry is not
 * for clients, at 1. A replay from storage has ids `s-1`, `s-2`, …
 */

import { isReset, type TurnEvent } from "./events";

interface Position {
  attempt: number | "s";
  sequence: number;
}

/** `next`: show it. `repeated`: it has been shown. `gap`: something before it is missing. */
export type Place = "next" | "repeated" | "gap";

export class Cursor {
  #id: string | null = null;

  /** The id of the last event that was taken; null before the first. */
  get id(): string | null {
    return this.#id;
  }

  /** Say where an event stands, and move on if it is the next one. */
  take(id: string | undefined, event: TurnEvent): Place {
    const place = this.#place(id, event);
    if (place === "next" && id !== undefined) this.#id = id;
    return place;
  }

  /** Forget the place: the next connection reads from the start. */
  reset(): void {
    this.#id = null;
  }

  #place(id: string | undefined, event: TurnEvent): Place {
    const position = parse(id);
    if (position === null) return "gap";
    if (event.type === "stream_started") return "next"; // the server starts over, from wherever we were
    const last = parse(this.#id ?? undefined);
    if (last === null) return "gap";
    if (position.attempt === "s" || last.attempt === "s") {
      if (position.attempt !== last.attempt) return "gap";
    } else if (position.attempt > last.attempt) {
      return position.sequence === 0 || (position.sequence === 1 && !isReset(event)) ? "next" : "gap";
    } else if (position.attempt < last.attempt) {
      return "repeated";
    }
    if (position.sequence <= last.sequence) return "repeated";
    return position.sequence === last.sequence + 1 ? "next" : "gap";
  }
}

function parse(id: string | undefined): Position | null {
  const match = /^(\d{1,10}|s)-(\d{1,10})$/.exec(id ?? "");
  if (match === null) return null;
  return { attempt: match[1] === "s" ? "s" : Number(match[1]), sequence: Number(match[2]) };
}
