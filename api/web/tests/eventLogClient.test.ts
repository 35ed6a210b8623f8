import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { EventLogClient, type Ending } from "../src/stream/eventLogClient";
import type { ConnectionGate } from "../src/stream/gate";
import { done, FakeServer, frame, problem, restart, started, text, type Entry, type FakeServerOptions } from "./fakeServer";
import { FullGate, OpenGate, Recorder } from "./recorder";

const MESSAGE = { content: "Why?", request_id: "r", attachment_ids: [], web_search: { enabled: false } };

const SILENCE_MS = 5_000;

const LOG: Entry[] = [
  started(),
  text("1-1", "Hello, "),
  { id: "1-2", event: "tool", data: { phase: "start", name: "web_search", details: {} } },
  text("1-3", "wörld – 😀 "),
  restart(2),
  text("2-1", "Grüße,\u2028 "),
  text("2-2", "Welt\r\n"),
  { id: "2-3", event: "citations", data: { items: [{ source: "web", title: "t", url: "u", snippet: "" }] } },
  done("2-4"),
];
const SHOWN = ["Grüße,\u2028 ", "Welt\r\n"];
const SIZE = new TextEncoder().encode(LOG.map(frame).join("")).length;

interface Run {
  server: FakeServer;
  recorder: Recorder;
  client: EventLogClient;
  ending: Promise<Ending>;
  stop: AbortController;
}

function run(
  log: Entry[],
  options?: FakeServerOptions,
  { gate = new OpenGate(), isAttached = false }: { gate?: ConnectionGate; isAttached?: boolean } = {},
): Run {
  const server = new FakeServer(log, options);
  const client: EventLogClient = new EventLogClient({
    basePath: "/api",
    authorization: () => "Bearer t",
    gate,
    silenceMs: SILENCE_MS,
    fetch: server.fetch,
  });
  const recorder = new Recorder(() => client);
  const stop = new AbortController();
  const ending = isAttached
    ? client.attach("c", "r", recorder, stop.signal)
    : client.send("c", MESSAGE, recorder, stop.signal);
  return { server, recorder, client, ending, stop };
}

/** Every event of the log, once, in order. */
function expectWhole({ recorder }: Run): void {
  expect(recorder.events.map((event) => event.data)).toEqual(LOG.map((entry) => entry.data));
  expect(recorder.shown).toEqual(SHOWN);
}

describe("a stream that breaks", () => {
  it.each([false, true])("is whole wherever it is cut (abruptly: %s)", async (isAbrupt) => {
    for (let cut = 0; cut < SIZE; cut++) {
      const attempt = run(LOG, { cut: (connection) => (connection === 0 ? cut : null), isAbrupt });
      expect(await attempt.ending, `cut at ${cut}`).toEqual({ kind: "terminal" });
      expectWhole(attempt);
    }
  });

  it("is whole however often it is cut", async () => {
    const cuts = fc.array(fc.integer({ min: 0, max: 200 }), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(cuts, fc.integer({ min: 1, max: 90 }), fc.boolean(), async (lengths, chunk, isAbrupt) => {
        const attempt = run(LOG, { cut: (connection) => lengths[connection] ?? null, chunk, isAbrupt });
        expect(await attempt.ending).toEqual({ kind: "terminal" });
        expectWhole(attempt);
      }),
      { numRuns: 300 },
    );
  });

  it("goes on after its last event, by GET once it was accepted", async () => {
    const first = new TextEncoder().encode(LOG.slice(0, 2).map(frame).join("")).length;
    const attempt = run(LOG, { cut: (connection) => (connection === 0 ? first : null) });
    await attempt.ending;
    expect(attempt.server.received).toEqual([
      { method: "POST", path: "/api/chats/c/messages:stream", lastEventId: null },
      { method: "GET", path: "/api/chats/c/turns/r/events", lastEventId: "1-1" },
    ]);
    expect(attempt.recorder.links).toEqual(["connecting", "open", "reconnecting", "open"]);
  });

  it("asks again with the same id if nobody knows whether it was accepted", async () => {
    const attempt = run(LOG, { cut: () => null, answers: ["unreachable", "unreachable"] });
    expect(await attempt.ending).toEqual({ kind: "terminal" });
    expect(attempt.server.received.map(({ method, lastEventId }) => [method, lastEventId])).toEqual([
      ["POST", null],
      ["POST", ""],
      ["POST", ""],
    ]);
    expectWhole(attempt);
  });

  it("survives an answer that comes from something in between", async () => {
    const answers = [new Response("bad gateway", { status: 502 }), problem(503, "service_unavailable"), problem(500, "x")];
    const attempt = run(LOG, { cut: () => null, answers });
    expect(await attempt.ending).toEqual({ kind: "terminal" });
    expectWhole(attempt);
  });

  it("starts over when the server starts over", async () => {
    const replay = [started("s-1"), text("s-2", "All of it"), done("s-3")];
    const lost = [started(), text("1-1", "All "), done("1-2")];
    const cut = new TextEncoder().encode(lost.slice(0, 2).map(frame).join("")).length;
    const server = new FakeServer(lost, { cut: () => cut });
    const stored = new FakeServer(replay);
    const client: EventLogClient = new EventLogClient({
      basePath: "",
      authorization: () => null,
      gate: new OpenGate(),
      silenceMs: 60_000,
      fetch: (input, init) => (server.received.length === 0 ? server : stored).fetch(input, init),
    });
    const recorder = new Recorder(() => client);
    await client.attach("c", "r", recorder, new AbortController().signal);
    expect(recorder.shown).toEqual(["All of it"]);
  });
});

describe("what is wrong on the wire", () => {
  it("is never shown twice", async () => {
    const doubled = LOG.flatMap((entry) => [entry, entry]).filter((entry, index) => index !== 1 || entry.id !== "0-1");
    const attempt = run(doubled);
    await attempt.ending;
    expectWhole(attempt);
  });

  it("is read again from the start if something is missing", async () => {
    const gap = [started(), text("1-1", "a"), text("1-3", "c"), done("1-4")].map(frame).join("");
    const attempt = run([started(), text("1-1", "a"), text("1-2", "b"), text("1-3", "c"), done("1-4")], {
      cut: () => null,
      answers: [new Response(gap)],
    });
    expect(await attempt.ending).toEqual({ kind: "terminal" });
    expect(attempt.recorder.shown).toEqual(["a", "b", "c"]);
    expect(attempt.server.received[1]).toMatchObject({ method: "GET", lastEventId: null });
  });

  it("is a loss if it is no event at all", async () => {
    const attempt = run(LOG, { cut: () => null, answers: [new Response("id: 0-1\nevent: delta\ndata: {oops\n\n")] });
    expect(await attempt.ending).toEqual({ kind: "terminal" });
    expectWhole(attempt);
  });

  it("is passed over if it is only unknown", async () => {
    const unknown = ": keep-alive\n\nid: 0-1\nevent: ping\ndata: {}\n\nid: 1-9\nevent: applause\ndata: {}\n\n";
    const body = frame(LOG[0]!) + unknown + LOG.slice(1).map(frame).join("");
    const attempt = run(LOG, { cut: () => null, answers: [new Response(body)] });
    await attempt.ending;
    expectWhole(attempt);
  });
});

describe("how a stream ends", () => {
  it("with 204 there is nothing more", async () => {
    const attempt = run([], undefined, { isAttached: true });
    expect(await attempt.ending).toEqual({ kind: "caught_up" });
    expect(attempt.server.received).toHaveLength(1);
  });

  it.each([
    [409, "generation_in_progress"],
    [429, "quota_exceeded"],
    [503, "queue_full"],
    [401, "unauthenticated"],
  ])("with %i %s a question is turned down", async (status, code) => {
    const attempt = run(LOG, { cut: () => null, answers: [problem(status, code)] });
    expect(await attempt.ending).toMatchObject({ kind: "refused", problem: { status, code } });
    expect(attempt.server.received).toHaveLength(1);
    expect(attempt.recorder.events).toEqual([]);
  });

  it("with a refusal that will not pass, reading ends", async () => {
    const attempt = run(LOG, { cut: () => null, answers: [problem(404, "turn_not_found")] }, { isAttached: true });
    expect(await attempt.ending).toMatchObject({ kind: "refused", problem: { code: "turn_not_found" } });
  });

  it("with a refusal that will pass, it does not", async () => {
    const answers = [problem(429, "rate_limited", { "Retry-After": "1" }), problem(503, "service_unavailable")];
    const attempt = run(LOG, { cut: () => null, answers }, { isAttached: true });
    expect(await attempt.ending).toEqual({ kind: "terminal" });
    expectWhole(attempt);
  });

  it("by abort, also in a pause", async () => {
    const attempt = run(LOG, { cut: () => null, answers: ["unreachable"] });
    attempt.recorder.onLink = (link) => link === "reconnecting" && queueMicrotask(() => attempt.stop.abort());
    expect(await attempt.ending).toEqual({ kind: "aborted" });
    expect(attempt.server.received).toHaveLength(1);
  });
});

describe("how long it waits", () => {
  async function pauses(answers: FakeServerOptions["answers"]): Promise<number[]> {
    vi.useFakeTimers();
    try {
      const waited: number[] = [];
      const attempt = run(LOG, { cut: () => null, answers: answers ?? [] }, { isAttached: true });
      let asked = Date.now();
      attempt.recorder.onLink = () => {};
      const count = answers?.length ?? 0;
      for (let connection = 1; connection <= count; connection++) {
        await vi.waitUntil(async () => {
          await vi.advanceTimersByTimeAsync(1);
          return attempt.server.received.length > connection;
        }, { timeout: 60_000, interval: 1 });
        waited.push(Date.now() - asked);
        asked = Date.now();
      }
      await attempt.ending;
      return waited;
    } finally {
      vi.useRealTimers();
    }
  }

  it("as the server says, if it does", async () => {
    const [byField, byHeader] = await pauses([
      new Response("retry: 123\n\n"),
      problem(503, "service_unavailable", { "Retry-After": "1" }),
    ]);
    expect(byField).toBeGreaterThanOrEqual(123);
    expect(byField).toBeLessThan(200);
    expect(byHeader).toBeGreaterThanOrEqual(1_000);
    expect(byHeader).toBeLessThan(1_100);
  });

  it("else longer each time, and not always the same", async () => {
    const [first, second, third] = await pauses(["unreachable", "unreachable", "unreachable"]);
    expect(first).toBeLessThanOrEqual(420);
    expect(second).toBeGreaterThanOrEqual(400);
    expect(third).toBeGreaterThanOrEqual(800);
  });

  it("for a silent connection, until the silence is too long", async () => {
    const [silent] = await pauses(["silent"]);
    expect(silent).toBeGreaterThanOrEqual(SILENCE_MS);
  });

  it("not at all for a connection that the page knows to be gone", async () => {
    const attempt = run(LOG, { cut: () => null, answers: ["silent"] }, { isAttached: true });
    const { onLink } = attempt.recorder;
    attempt.recorder.onLink = (link) => {
      onLink.call(attempt.recorder, link);
      if (link === "open" && attempt.server.received.length === 1) attempt.client.drop();
    };
    expect(await attempt.ending).toEqual({ kind: "terminal" });
    expectWhole(attempt);
  });
});

describe("places", () => {
  it("a question is asked at the one for questions, and read on when there is another", async () => {
    const gate = new FullGate();
    const attempt = run(LOG, undefined, { gate });
    expect(await attempt.ending).toEqual({ kind: "terminal" });
    expectWhole(attempt);
    expect(attempt.server.received.map(({ method }) => method)).toEqual(["POST", "GET"]);
    expect(attempt.recorder.links).toEqual(["connecting", "open", "queued", "open"]);
    expect([gate.open, gate.most]).toEqual([0, 1]);
  });

  it("are given back", async () => {
    const gate = new OpenGate();
    const attempt = run(LOG, { cut: (connection) => (connection < 3 ? 100 : null) }, { gate });
    await attempt.ending;
    expect([gate.open, gate.most]).toEqual([0, 1]);
  });
});

it("a listener that fails does not end the stream", async () => {
  const reported = vi.fn();
  vi.stubGlobal("reportError", reported);
  const attempt = run(LOG);
  const { onEvent } = attempt.recorder;
  attempt.recorder.onEvent = (event) => {
    onEvent.call(attempt.recorder, event);
    if (event.type === "tool") throw new Error("in the page");
  };
  expect(await attempt.ending).toEqual({ kind: "terminal" });
  expectWhole(attempt);
  expect(reported).toHaveBeenCalledOnce();
  vi.unstubAllGlobals();
});
