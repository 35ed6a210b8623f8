/** A turn as the page shows it: the question, and the answer as it stands, stored or still being written. */

import { computed, signal, type ReadonlySignal } from "@preact/signals";
import type { Message, MessageAttachment, Reaction } from "../api";
import type { Link, TurnListener } from "../stream/eventLogClient";
import type { Citation, Done, Failure, ToolCall, ToolName, TurnEvent } from "../stream/events";
import { AnswerText } from "./answerText";

/** `waiting` and `writing` are live; the others are how it ended. */
export type Phase = "waiting" | "writing" | "done" | "stopped" | "interrupted";

/** What is going on with the connection or the answer, in a word. */
export type Status =
  | "connecting"
  | "thinking"
  | "writing"
  | "reconnecting"
  | "resumed"
  | "restarted"
  | "queued"
  | "stopping"
  | "stopped"
  | "interrupted"
  | "done";

export interface ToolActivity {
  name: ToolName;
  isDone: boolean;
  details: ToolCall["details"];
}

export interface Question {
  content: string;
  attachments: MessageAttachment[];
}

/** How long a word about something that has passed stays. */
const NEWS_MS = 5_000;

export class Turn implements TurnListener {
  readonly messageId = signal<string | null>(null);
  readonly phase = signal<Phase>("waiting");
  readonly text = new AnswerText();
  readonly reasoning = new AnswerText();
  readonly hasText = signal(false);
  readonly hasReasoning = signal(false);
  readonly tools = signal<ToolActivity[]>([]);
  readonly citations = signal<Citation[]>([]);
  readonly done = signal<Done | null>(null);
  readonly failure = signal<Failure | null>(null);
  readonly reaction = signal<Reaction | null>(null);
  readonly model = signal<string | null>(null);
  readonly hasDetails = signal(false);
  readonly isStopping = signal(false);
  /** False while it is not known whether the server has it. */
  isAccepted = true;
  readonly #link = signal<Link | null>(null);
  readonly #news = signal<"resumed" | "restarted" | null>(null);
  #newsTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly requestId: string,
    readonly question: Question,
    readonly isWebSearchWanted = false,
  ) {}

  readonly isLive = computed(() => this.phase.value === "waiting" || this.phase.value === "writing");

  readonly status: ReadonlySignal<Status> = computed(() => {
    const phase = this.phase.value;
    if (phase !== "waiting" && phase !== "writing") return phase;
    const link = this.#link.value;
    if (link === "reconnecting" || link === "queued") return link;
    if (this.isStopping.value) return "stopping";
    const news = this.#news.value;
    if (news !== null) return news;
    if (link === "connecting") return "connecting";
    return phase === "writing" ? "writing" : "thinking";
  });

  /** Show the answer that is stored. */
  static stored(requestId: string, question: Question, answer: Message | null): Turn {
    const turn = new Turn(requestId, question);
    turn.adopt(answer);
    return turn;
  }

  /** A question that is on its way to the server. */
  static asked(requestId: string, question: Question, isWebSearchWanted: boolean): Turn {
    const turn = new Turn(requestId, question, isWebSearchWanted);
    turn.isAccepted = false;
    turn.onLink("connecting");
    return turn;
  }

  adopt(answer: Message | null): void {
    this.phase.value = answer === null ? "interrupted" : "done";
    if (answer === null) return;
    this.messageId.value = answer.id;
    this.reaction.value = answer.my_reaction;
    this.model.value = answer.model ?? null;
    if (this.text.value === answer.content) return;
    this.#clear();
    this.#append(answer.content);
  }

  /** Begin to follow a turn that is running: what is stored of it, if anything, is not the end. */
  live(): void {
    this.phase.value = "waiting";
    this.failure.value = this.done.value = null;
  }

  onLink(link: Link): void {
    const previous = this.#link.value;
    this.#link.value = link;
    if (link === "open" && previous === "reconnecting") this.#tell("resumed");
  }

  onEvent(event: TurnEvent): void {
    switch (event.type) {
      case "stream_started":
        this.#clear();
        this.messageId.value = event.data.message_id;
        break;
      case "restart":
        this.#clear();
        this.phase.value = "waiting";
        this.#tell("restarted");
        break;
      case "delta":
        if (event.data.type === "text") {
          this.phase.value = "writing";
          this.#append(event.data.content);
        } else {
          this.hasReasoning.value = true;
          this.reasoning.append(event.data.content);
        }
        break;
      default:
        this.onDetail(event);
    }
  }

  /** What an event tells beside the text: all that is left to learn of a turn whose text is stored. */
  onDetail(event: TurnEvent): void {
    switch (event.type) {
      case "tool":
        this.#noteTool(event.data);
        break;
      case "citations":
        this.citations.value = event.data.items;
        break;
      case "done":
        this.phase.value = "done";
        this.done.value = event.data;
        this.model.value = event.data.effective_model;
        this.hasDetails.value = true;
        break;
      case "error":
        this.phase.value = event.data.code === "cancelled" ? "stopped" : "interrupted";
        this.failure.value = event.data;
        this.hasDetails.value = true;
        break;
    }
  }

  #noteTool({ phase, name, details }: ToolCall): void {
    const tools = [...this.tools.value];
    const running = tools.findIndex((tool) => tool.name === name && !tool.isDone);
    if (phase === "start" || running === -1) tools.push({ name, isDone: phase === "done", details });
    else tools[running] = { name, isDone: phase === "done", details };
    this.tools.value = tools;
  }

  #append(piece: string): void {
    this.hasText.value = true;
    this.text.append(piece);
  }

  #clear(): void {
    this.text.clear();
    this.reasoning.clear();
    this.hasText.value = this.hasReasoning.value = false;
    this.tools.value = [];
    this.citations.value = [];
  }

  #tell(news: "resumed" | "restarted"): void {
    this.#news.value = news;
    clearTimeout(this.#newsTimer);
    this.#newsTimer = setTimeout(() => (this.#news.value = null), NEWS_MS);
  }
}
