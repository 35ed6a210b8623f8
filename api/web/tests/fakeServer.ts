/** A server with one turn, as the streaming contract has it, whose connections can be cut at any byte. */

export interface Entry {
  id: string;
  event: string;
  data: unknown;
}

export interface Received {
  method: string;
  path: string;
  lastEventId: string | null;
}

export interface FakeServerOptions {
  /** How many bytes connection number n, from 0, carries before it breaks; null: all. */
  cut(connection: number): number | null;
  /** Whether the break is an error rather than an end. */
  isAbrupt?: boolean;
  /** How many bytes arrive at a time. */
  chunk?: number;
  /** Answers in place of the streams of the first connections. */
  answers?: (Response | "unreachable" | "silent" | null)[];
}

export class FakeServer {
  readonly received: Received[] = [];
  /** Asked for at least once. */
  isAccepted = false;

  constructor(
    private readonly log: Entry[],
    private readonly options: FakeServerOptions = { cut: () => null },
  ) {}

  readonly fetch: typeof fetch = async (input, init) => {
    const connection = this.received.length;
    const headers = new Headers(init?.headers);
    const method = init?.method ?? "GET";
    this.received.push({ method, path: String(input), lastEventId: headers.get("Last-Event-ID") });
    init?.signal?.throwIfAborted();
    const answer = this.options.answers?.[connection] ?? null;
    if (answer === "unreachable") throw new TypeError("network error");
    if (answer === "silent") return silence(init?.signal ?? null);
    if (answer !== null) return answer;
    this.isAccepted ||= method !== "GET";
    const rest = this.#after(headers.get("Last-Event-ID"));
    if (rest.length === 0) return new Response(null, { status: 204 });
    const bytes = new TextEncoder().encode(rest.map(frame).join(""));
    return this.#stream(bytes.subarray(0, this.options.cut(connection) ?? bytes.length), bytes.length);
  };

  #after(lastEventId: string | null): Entry[] {
    return this.log.slice(this.log.findIndex(({ id }) => id === lastEventId) + 1);
  }

  #stream(bytes: Uint8Array, whole: number): Response {
    const { chunk = 7, isAbrupt = false } = this.options;
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent < bytes.length) controller.enqueue(bytes.slice(sent, (sent += chunk)));
        else if (isAbrupt && bytes.length < whole) controller.error(new TypeError("network error"));
        else controller.close();
      },
    });
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }
}

/** A stream on which nothing comes, until it is given up. */
function silence(signal: AbortSignal | null): Response {
  const start = (controller: ReadableStreamDefaultController<Uint8Array>): void =>
    signal?.addEventListener("abort", () => controller.error(signal.reason));
  return new Response(new ReadableStream({ start }));
}

export function frame({ id, event, data }: Entry): string {
  return `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

export function problem(status: number, code: string, headers: Record<string, string> = {}): Response {
  const body = { type: "about:blank", title: code, status, detail: `It is ${code}`, code };
  return new Response(JSON.stringify(body), {
    status,
    headers: { "Content-Type": "application/problem+json", ...headers },
  });
}

export const started = (id = "0-1"): Entry => ({
  id,
  event: "stream_started",
  data: { request_id: "r", message_id: "m", is_new_turn: true },
});

export const text = (id: string, content: string): Entry => ({ id, event: "delta", data: { type: "text", content } });

export const restart = (attempt: number): Entry => ({
  id: `${attempt}-0`,
  event: "restart",
  data: { attempt, reason: "worker_lost" },
});

export const done = (id: string): Entry => ({
  id,
  event: "done",
  data: { usage: null, effective_model: "a", selected_model: "a", quota_decision: "allow" },
});
