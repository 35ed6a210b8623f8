import type { ConnectionGate, Ticket } from "../src/stream/gate";
import type { EventLogClient, Link, TurnListener } from "../src/stream/eventLogClient";
import { isReset, type TurnEvent } from "../src/stream/events";

/** What a page would show, and all it was told; it never waits for a reconnection. */
export class Recorder implements TurnListener {
  readonly events: TurnEvent[] = [];
  readonly links: Link[] = [];
  shown: string[] = [];

  constructor(private readonly client: () => EventLogClient) {}

  onEvent(event: TurnEvent): void {
    this.events.push(event);
    if (isReset(event)) this.shown = [];
    if (event.type === "delta") this.shown.push(event.data.content);
  }

  onLink(link: Link): void {
    this.links.push(link);
    if (link === "reconnecting") queueMicrotask(() => this.client().wake());
  }
}

/** Lets everybody in. */
export class OpenGate implements ConnectionGate {
  open = 0;
  most = 0;

  async tryEnter(): Promise<Ticket | null> {
    return this.place();
  }

  async enter(): Promise<Ticket> {
    return this.place();
  }

  async enterToAsk(): Promise<Ticket> {
    return this.place(true);
  }

  protected place(isForAsking = false): Ticket {
    this.most = Math.max(this.most, ++this.open);
    return { recalled: new AbortController().signal, isForAsking, release: () => void this.open-- };
  }
}

/** Lets nobody in at once. */
export class FullGate extends OpenGate {
  override async tryEnter(): Promise<null> {
    return null;
  }
}
