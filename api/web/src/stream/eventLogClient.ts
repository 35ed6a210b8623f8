/**
 * Reads the events of a turn, each exactly once and in order, through any number of broken connections.
 *
 *     idle -> connecting -> open -> ended
 *                 ^          |
 *                 +- reconnecting (after a pause) or queued (waiting for a place)
 *
 * A connection goes on after the cursor, the id of the last event taken. `stream_started` and `restart` tell the listener
 * to drop what it has. A stream ends with a terminal event, with 204 (nothing after the cursor), or with a refusal; every
 * other end is a loss, and is followed by another connection: after the time that the server asked for (`retry:`,
 * `Retry-After`), else by a backoff with jitter.
 *
 * What is asked for by POST or PATCH carries a request id of our own. While it is not known whether the server has
 * accepted it, it is repeated with an empty `Last-Event-ID`, which joins the turn if there is one.
 */

import { createParser } from "eventsource-parser";
import { isPassing, problemOf, type Problem } from "../problem";
import { backoffMs } from "./backoff";
import { Cursor } from "./cursor";
import { decodeEvent, isTerminal, type TurnEvent } from "./events";
import type { ConnectionGate, Ticket } from "./gate";

/** `queued`: other tabs have all the connections just now. */
export type Link = "connecting" | "open" | "reconnecting" | "queued";

export interface TurnListener {
  onEvent(event: TurnEvent): void;
  onLink(link: Link): void;
}

export type Ending =
  /** A `done` or `error` event was the last one. */
  | { kind: "terminal" }
  /** 204: the server has nothing after our cursor. */
  | { kind: "caught_up" }
  | { kind: "refused"; problem: Problem }
  | { kind: "aborted" };

export interface NewMessage {
  content: string;
  request_id: string;
  attachment_ids: string[];
  web_search: { enabled: boolean };
}

export interface EventLogClientOptions {
  /** Of the API, such as `/mini-chat/v1`. */
  basePath: string;
  /** Sent with every request; null: no credentials. */
  authorization(): string | null;
  gate: ConnectionGate;
  /** A connection on which nothing came for this long is taken for broken. The server is never silent so long. */
  silenceMs: number;
  fetch?: typeof fetch;
  random?: () => number;
}

interface Opening {
  method: "POST" | "PATCH";
  path: string;
  body?: unknown;
}

export class EventLogClient {
  readonly #readers = new Set<TurnReader>();

  constructor(private readonly options: EventLogClientOptions) {}

  /** Ask, and read the answer. */
  send(chatId: string, message: NewMessage, listener: TurnListener, signal: AbortSignal): Promise<Ending> {
    const opening: Opening = { method: "POST", path: `/chats/${chatId}/messages:stream`, body: message };
    return this.#read(chatId, message.request_id, opening, listener, signal);
  }

  /** Have the last question answered again, as turn `newRequestId`. */
  retry(
    chatId: string,
    requestId: string,
    newRequestId: string,
    listener: TurnListener,
    signal: AbortSignal,
  ): Promise<Ending> {
    const path = `/chats/${chatId}/turns/${requestId}/retry?request_id=${newRequestId}`;
    return this.#read(chatId, newRequestId, { method: "POST", path }, listener, signal);
  }

  /** Replace the last question, and read the answer as turn `newRequestId`. */
  edit(
    chatId: string,
    requestId: string,
    content: string,
    newRequestId: string,
    listener: TurnListener,
    signal: AbortSignal,
  ): Promise<Ending> {
    const path = `/chats/${chatId}/turns/${requestId}?request_id=${newRequestId}`;
    return this.#read(chatId, newRequestId, { method: "PATCH", path, body: { content } }, listener, signal);
  }

  /** Read a turn that exists: the whole of it, and what is still to come. */
  attach(chatId: string, requestId: string, listener: TurnListener, signal: AbortSignal): Promise<Ending> {
    return this.#read(chatId, requestId, null, listener, signal);
  }

  /** The network is back, or somebody looks again: end every pause. */
  wake(): void {
    for (const reader of this.#readers) reader.wake();
  }

  /** The network is gone: what is open now will bring nothing more. */
  drop(): void {
    for (const reader of this.#readers) reader.drop();
  }

  async #read(
    chatId: string,
    requestId: string,
    opening: Opening | null,
    listener: TurnListener,
    signal: AbortSignal,
  ): Promise<Ending> {
    const reader = new TurnReader(this.options, `/chats/${chatId}/turns/${requestId}/events`, opening, listener, signal);
    this.#readers.add(reader);
    try {
      return await reader.run();
    } finally {
      this.#readers.delete(reader);
    }
  }
}

/** How a connection went: it ended the reading, or it is to be followed by another. */
type Outcome = { ending: Ending } | { waitMs: number | null; isFailure: boolean };

class TurnReader {
  readonly #cursor = new Cursor();
  readonly #fetch: typeof fetch;
  readonly #random: () => number;
  /** What the turn is asked for with; null once the server has accepted it. */
  #opening: Opening | null;
  #tries = 0;
  #failures = 0;
  #connection: AbortController | null = null;
  #endPause: (() => void) | null = null;

  constructor(
    private readonly options: EventLogClientOptions,
    private readonly eventsPath: string,
    opening: Opening | null,
    private readonly listener: TurnListener,
    private readonly signal: AbortSignal,
  ) {
    this.#opening = opening;
    this.#fetch = options.fetch ?? ((...args) => fetch(...args));
    this.#random = options.random ?? Math.random;
  }

  async run(): Promise<Ending> {
    this.listener.onLink("connecting");
    for (;;) {
      if (this.signal.aborted) return { kind: "aborted" };
      const outcome = await this.#connect();
      if ("ending" in outcome) return outcome.ending;
      if (this.signal.aborted) return { kind: "aborted" };
      if (!outcome.isFailure) continue;
      this.listener.onLink("reconnecting");
      this.#failures += 1;
      await this.#pause(outcome.waitMs ?? backoffMs(this.#failures, this.#random));
    }
  }

  wake(): void {
    this.#endPause?.();
  }

  drop(): void {
    this.#connection?.abort();
  }

  async #connect(): Promise<Outcome> {
    const connection = new AbortController();
    this.#connection = connection;
    const ended = AbortSignal.any([this.signal, connection.signal]);
    let ticket: Ticket | null = null;
    try {
      ticket = await this.#enter(ended);
      return await this.#exchange(connection, AbortSignal.any([ended, ticket.recalled]), ticket);
    } catch {
      // Whatever broke (the network, a frame that is none), the next connection goes on after the cursor.
      return { waitMs: null, isFailure: ticket?.recalled.aborted !== true };
    } finally {
      connection.abort(); // before its place is given away
      this.#connection = null;
      ticket?.release();
    }
  }

  /** A question is not kept waiting until others have been answered: it is asked, and its answer read in turn. */
  async #enter(signal: AbortSignal): Promise<Ticket> {
    const { gate } = this.options;
    const ticket = await gate.tryEnter();
    if (ticket !== null) return ticket;
    if (this.#opening !== null) return await gate.enterToAsk(signal);
    this.listener.onLink("queued");
    return await gate.enter(signal);
  }

  async #exchange(connection: AbortController, signal: AbortSignal, ticket: Ticket): Promise<Outcome> {
    const silence = new Silence(this.options.silenceMs, () => connection.abort());
    try {
      const response = await this.#request(signal);
      if (response.status === 204) return { ending: { kind: "caught_up" } };
      if (!response.ok || response.body === null) return await this.#refusal(response);
      this.#opening = null;
      this.listener.onLink("open");
      return await this.#readBody(response.body, silence, ticket);
    } finally {
      silence.end();
    }
  }

  #request(signal: AbortSignal): Promise<Response> {
    const { basePath } = this.options;
    const headers = new Headers({ Accept: "text/event-stream" });
    const authorization = this.options.authorization();
    if (authorization !== null) headers.set("Authorization", authorization);
    this.#tries += 1;
    const opening = this.#opening;
    if (opening === null) {
      if (this.#cursor.id !== null) headers.set("Last-Event-ID", this.#cursor.id);
      return this.#fetch(basePath + this.eventsPath, { headers, signal, cache: "no-store" });
    }
    if (this.#tries > 1) headers.set("Last-Event-ID", "");
    const request: RequestInit = { method: opening.method, headers, signal };
    if (opening.body !== undefined) {
      headers.set("Content-Type", "application/json");
      request.body = JSON.stringify(opening.body);
    }
    return this.#fetch(basePath + opening.path, request);
  }

  async #refusal(response: Response): Promise<Outcome> {
    const problem = await problemOf(response);
    // A first question that the API itself has turned down left no trace: whoever asked decides what comes next.
    const mayHaveBeenAccepted = this.#opening === null || this.#tries > 1 || problem.code === "unreachable";
    if (isPassing(problem) && mayHaveBeenAccepted) return { waitMs: problem.retryAfterMs ?? null, isFailure: true };
    return { ending: { kind: "refused", problem } };
  }

  async #readBody(body: ReadableStream<Uint8Array>, silence: Silence, ticket: Ticket): Promise<Outcome> {
    let retryMs: number | null = null;
    const arrived: { id: string | undefined; name: string | undefined; data: string }[] = [];
    const parser = createParser({
      onEvent: ({ id, event, data }) => arrived.push({ id, name: event, data }),
      onRetry: (value) => (retryMs = value),
    });
    const decoder = new TextDecoder();
    const breath = new Breath();
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return { waitMs: retryMs, isFailure: true };
      silence.broken();
      parser.feed(decoder.decode(value, { stream: true }));
      for (const { id, name, data } of arrived.splice(0)) {
        if (breath.isNeeded) await breath.take();
        if (this.signal.aborted) return { ending: { kind: "aborted" } };
        const event = decodeEvent(name, data);
        if (event === null) continue;
        const place = this.#cursor.take(id, event);
        if (place === "repeated") continue;
        if (place === "gap") {
          this.#cursor.reset(); // read it all again, rather than show what cannot be right
          return { waitMs: null, isFailure: true };
        }
        this.#failures = 0;
        this.#tell(event);
        if (isTerminal(event)) {
          await closing(reader);
          return { ending: { kind: "terminal" } };
        }
      }
      if (ticket.isForAsking && this.#cursor.id !== null) return { waitMs: null, isFailure: false };
    }
  }

  /** A listener that fails is not the stream's failure. */
  #tell(event: TurnEvent): void {
    try {
      this.listener.onEvent(event);
    } catch (error) {
      reportError(error);
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        this.signal.removeEventListener("abort", end);
        this.#endPause = null;
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.signal.addEventListener("abort", end);
      this.#endPause = end;
    });
  }
}

const CLOSING_MS = 200;

/** The server closes after the last event. A connection that it has closed can be used again, one that is broken off not. */
function closing(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => resolve();
    setTimeout(end, CLOSING_MS);
    reader.read().then(end, end); // all that was to be read has been
  });
}

/** Calls back when nothing has come for too long, as after a sleep of the machine: no error tells of that. */
class Silence {
  #timer: ReturnType<typeof setTimeout>;

  constructor(
    private readonly ms: number,
    private readonly tooLong: () => void,
  ) {
    this.#timer = setTimeout(tooLong, ms);
  }

  broken(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.tooLong, this.ms);
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}

const LONGEST_WORK_MS = 12;

/** Lets the page breathe while a long log arrives at once. */
class Breath {
  #since = performance.now();

  get isNeeded(): boolean {
    return performance.now() - this.#since > LONGEST_WORK_MS;
  }

  async take(): Promise<void> {
    // A message, not a timer: those of a hidden tab come once a second.
    await new Promise<void>((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    });
    this.#since = performance.now();
  }
}
