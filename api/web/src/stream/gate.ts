/**
 * How many event streams a browser holds open, over all tabs.
 *
 * With HTTP/1.1 a browser opens six connections to a server, for all tabs together, and queues what is beyond them. A
 * stream occupies one for as long as it lasts, so enough tabs would shut out every other request. So there are a few
 * slots, shared by Web Locks; a stream that finds none waits in line, and those that have one let go of it after a while.
 * They resume from their cursor, so that this costs a pause, and never an event. Questions do not wait in that line: one
 * more place is theirs, for the moment that it takes to ask. So there are never more than `SLOTS` + 1 streams, and one
 * connection is left for all other requests.
 */

const SLOTS = 4;
const TURN_MS = 3_000;
const ASK_MS = 1_000;
const QUEUE = "mini-chat:stream-queue";
const ASKING = "mini-chat:stream-asking";
const CHANNEL = "mini-chat:stream-slots";

/** A place for one connection. */
export interface Ticket {
  /** Aborted when somebody else should have the place. */
  readonly recalled: AbortSignal;
  /** It is to be given back as soon as the question has been accepted. */
  readonly isForAsking: boolean;
  release(): void;
}

export interface ConnectionGate {
  /** A ticket if there is one at once. */
  tryEnter(): Promise<Ticket | null>;
  /** Wait for a ticket. Rejects with the reason of `signal`. */
  enter(signal: AbortSignal): Promise<Ticket>;
  /** Wait for the place of those who ask: it is never taken for long. Rejects with the reason of `signal`. */
  enterToAsk(signal: AbortSignal): Promise<Ticket>;
}

/** Slots if this page may share locks (it may not on plain HTTP from another host), else one connection a visible tab. */
export function createGate(): ConnectionGate {
  const { locks } = navigator as { locks?: LockManager };
  return locks === undefined ? new VisibleTabGate() : new SlotGate(locks);
}

/** `asker` wants the slot `slot`, or any that a hidden tab has. */
interface Wanted {
  slot: number | "hidden";
}

class SlotGate implements ConnectionGate {
  readonly #channel = new BroadcastChannel(CHANNEL);
  readonly #held = new Set<Slot>();

  constructor(private readonly locks: LockManager) {
    this.#channel.onmessage = ({ data }: MessageEvent<Wanted>) => this.#yieldTo(data);
  }

  async tryEnter(): Promise<Ticket | null> {
    const { held } = await this.locks.query();
    if (held?.some((lock) => lock.name === QUEUE)) return null; // others have waited for longer
    for (let index = 0; index < SLOTS; index++) {
      const release = await hold(this.locks, slotName(index), { ifAvailable: true });
      if (release !== null) return this.#slot(index, release);
    }
    return null;
  }

  async enter(signal: AbortSignal): Promise<Ticket> {
    const ticket = await this.tryEnter();
    if (ticket !== null) return ticket;
    await visible(signal); // a tab that nobody sees does not stand in the way of one that somebody does
    const leaveQueue = await hold(this.locks, QUEUE, { signal });
    try {
      return await this.#first(signal);
    } finally {
      leaveQueue?.();
    }
  }

  async enterToAsk(signal: AbortSignal): Promise<Ticket> {
    const release = await hold(this.locks, ASKING, { signal });
    return { recalled: NEVER, isForAsking: true, release: () => release?.() };
  }

  /** The first slot to become free, while asking those who have one. */
  async #first(signal: AbortSignal): Promise<Ticket> {
    const decided = new AbortController();
    const either = AbortSignal.any([signal, decided.signal]);
    const stopAsking = this.#ask();
    try {
      return await new Promise<Ticket>((resolve, reject) => {
        let isTaken = false;
        for (let index = 0; index < SLOTS; index++) {
          hold(this.locks, slotName(index), { signal: either }).then((release) => {
            if (release === null) return;
            if (isTaken) release();
            else resolve(this.#slot(index, release));
            isTaken = true;
            decided.abort();
          }, reject);
        }
      });
    } finally {
      stopAsking();
    }
  }

  #ask(): () => void {
    let next = Math.floor(Math.random() * SLOTS);
    this.#post({ slot: "hidden" });
    const timer = setInterval(() => this.#post({ slot: next++ % SLOTS }), ASK_MS);
    return () => clearInterval(timer);
  }

  /** To all tabs, this one included: it may itself hold what it wants for another chat. */
  #post(wanted: Wanted): void {
    this.#channel.postMessage(wanted);
    this.#yieldTo(wanted);
  }

  #yieldTo(wanted: Wanted): void {
    for (const slot of this.#held) {
      const isMeant = wanted.slot === slot.index && performance.now() - slot.since >= TURN_MS;
      if (isMeant || document.visibilityState === "hidden") slot.recall();
    }
  }

  #slot(index: number, release: () => void): Ticket {
    const slot = new Slot(index, () => {
      this.#held.delete(slot);
      release();
    });
    this.#held.add(slot);
    return slot;
  }
}

/** Of a place that nobody wants back. */
const NEVER = new AbortController().signal;

class Slot implements Ticket {
  readonly isForAsking = false;
  readonly since = performance.now();
  readonly #recall = new AbortController();
  readonly recalled = this.#recall.signal;

  constructor(
    readonly index: number,
    readonly release: () => void,
  ) {}

  recall(): void {
    this.#recall.abort();
  }
}

class VisibleTabGate implements ConnectionGate {
  async tryEnter(): Promise<Ticket | null> {
    if (document.visibilityState === "hidden") return null;
    const recall = new AbortController();
    const onChange = (): void => {
      if (document.visibilityState === "hidden") recall.abort();
    };
    document.addEventListener("visibilitychange", onChange);
    return {
      recalled: recall.signal,
      isForAsking: false,
      release: () => document.removeEventListener("visibilitychange", onChange),
    };
  }

  async enter(signal: AbortSignal): Promise<Ticket> {
    for (;;) {
      await visible(signal);
      const ticket = await this.tryEnter();
      if (ticket !== null) return ticket;
    }
  }

  async enterToAsk(): Promise<Ticket> {
    return { recalled: NEVER, isForAsking: true, release: () => {} };
  }
}

function slotName(index: number): string {
  return `mini-chat:stream-slot-${index}`;
}

/** Hold a lock until the answer is called; null if it is not available and that was all that was asked for. */
function hold(locks: LockManager, name: string, options: LockOptions): Promise<(() => void) | null> {
  return new Promise((resolve, reject) => {
    locks
      .request(name, options, (lock) => {
        if (lock === null) return resolve(null);
        return new Promise<void>((release) => resolve(release));
      })
      .catch(reject);
  });
}

function visible(signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      if (signal.aborted) reject(signal.reason);
      else if (document.visibilityState === "hidden") return;
      else resolve();
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
    look();
  });
}
