/** The open chat: its turns, and all that can be done with them. Before its first message it is a draft without a chat. */

import { computed, signal } from "@preact/signals";
import type { Api, Chat, Message, Page, Reaction } from "../api";
import { newUuid } from "../ids";
import { ProblemError, type Problem } from "../problem";
import type { Ending, EventLogClient, TurnListener } from "../stream/eventLogClient";
import type { TurnEvent } from "../stream/events";
import { Draft } from "./draft";
import { Turn, type Question } from "./turn";
import type { Upload, Uploads } from "./uploads";

export interface ConversationEvents {
  /** The chat was made, renamed, or has a new turn. */
  onChat(chat: Chat): void;
  /** Other tabs should look again. */
  onTurns(chatId: string): void;
  /** A turn has ended: the quota has changed. */
  onSettled(): void;
  onUnauthenticated(): void;
}

export interface Notice {
  text: string;
  code: string;
}

export class Conversation {
  readonly chat = signal<Chat | null>(null);
  readonly turns = signal<Turn[]>([]);
  readonly isLoading = signal(false);
  readonly isMissing = signal(false);
  /** Why the chat could not be read. It is tried again whenever somebody looks. */
  readonly failure = signal<string | null>(null);
  readonly hasOlder = signal(false);
  readonly notice = signal<Notice | null>(null);
  /** What has been typed. It survives a send that was refused. */
  readonly draft: Draft["text"];
  readonly isWebSearchOn: Draft["isWebSearchOn"];
  readonly chosenModel: Draft["chosenModel"];
  readonly uploads: Uploads;
  readonly editing = signal<Turn | null>(null);
  /** The chat that this is about, even while it could not be read; null: none yet. */
  #id: string | null = null;
  #olderCursor: string | null = null;
  #olderPage: Promise<void> | null = null;
  /** An answer whose question is on the next older page. */
  #split: Message[] = [];
  #creation: Promise<Chat> | null = null;
  #isDeleting = false;
  readonly #closed = new AbortController();

  constructor(
    private readonly api: Api,
    private readonly client: EventLogClient,
    private readonly events: ConversationEvents,
    private readonly prepared: Draft = new Draft(api),
  ) {
    this.draft = prepared.text;
    this.isWebSearchOn = prepared.isWebSearchOn;
    this.chosenModel = prepared.chosenModel;
    this.uploads = prepared.uploads;
  }

  readonly latest = computed(() => this.turns.value.at(-1) ?? null);
  readonly running = computed(() => this.turns.value.find((turn) => turn.isLive.value) ?? null);

  async open(chatId: string): Promise<void> {
    this.#id = chatId;
    this.isLoading.value = true;
    try {
      await this.#load(chatId);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.isMissing.value = error.problem.status === 404;
      this.failure.value = noticeText(error.problem);
    } finally {
      this.isLoading.value = false;
    }
  }

  /** Stop reading; what runs goes on at the server, and a question that is on its way still gets there. */
  close(): void {
    this.#closed.abort();
  }

  /** Look again: something may have happened in another tab or at another device. */
  async refresh(): Promise<void> {
    const id = this.#id;
    if (id === null || this.isLoading.value || this.isMissing.value) return;
    if (this.chat.value === null) return this.open(id);
    try {
      await this.#load(id);
    } catch (error) {
      if (error instanceof ProblemError && error.problem.status === 404) this.isMissing.value = true;
    }
  }

  loadOlder(): Promise<void> {
    this.#olderPage ??= this.#loadOlder().finally(() => (this.#olderPage = null));
    return this.#olderPage;
  }

  /** Ask what was typed, with the files that are ready. It is shown at once, and taken back if it is refused. */
  async send(): Promise<void> {
    const content = this.draft.value;
    if (content.trim() === "" || this.running.value !== null || this.uploads.isPending.value) return;
    this.notice.value = null;
    if (this.isMissing.value) this.#beginAnew();
    const prepared = this.uploads.items.value;
    const attachments = prepared.flatMap(({ attachment: { value } }) => (value?.status === "ready" ? [value] : []));
    const question: Question = {
      content,
      attachments: attachments.map(({ id, ...attachment }) => ({ attachment_id: id, ...attachment })),
    };
    const turn = Turn.asked(newUuid(), question, this.isWebSearchOn.value);
    this.turns.value = [...this.turns.value, turn];
    this.draft.value = "";
    const takeBack = (): void => {
      this.turns.value = this.turns.value.filter((other) => other !== turn);
      this.prepared.takeBack(content);
    };
    const message = {
      content,
      request_id: turn.requestId,
      attachment_ids: attachments.map((attachment) => attachment.id),
      web_search: { enabled: turn.isWebSearchWanted },
    };
    try {
      const { id } = await this.#ensureChat();
      const asking = this.#asking(turn, id, () => this.uploads.drop(prepared));
      const ending = await this.client.send(id, message, asking.listener, asking.signal);
      if (ending.kind === "refused") takeBack();
      await this.#settle(ending, turn);
    } catch (error) {
      takeBack();
      this.#complain(error);
    }
  }

  async retry(turn: Turn): Promise<void> {
    await this.#replace(turn, turn.question, (chatId, next, { listener, signal }) =>
      this.client.retry(chatId, turn.requestId, next.requestId, listener, signal),
    );
  }

  async edit(turn: Turn, content: string): Promise<void> {
    this.editing.value = null;
    await this.#replace(turn, { ...turn.question, content }, (chatId, next, { listener, signal }) =>
      this.client.edit(chatId, turn.requestId, content, next.requestId, listener, signal),
    );
  }

  /** Stop the running turn, whichever tab has asked for it; as soon as the server knows it, if that is still to come. */
  async stop(): Promise<void> {
    const turn = this.running.value;
    if (turn === null || turn.isStopping.value) return;
    turn.isStopping.value = true;
    const chat = this.chat.value;
    if (chat !== null && turn.isAccepted) await this.#cancel(chat.id, turn);
  }

  /** Once for each that is shown: the next one is not to go because somebody was impatient. */
  async deleteLast(): Promise<void> {
    const [chat, turn] = [this.chat.value, this.latest.value];
    if (chat === null || turn === null || this.#isDeleting) return;
    this.#isDeleting = true;
    await this.#attempt(async () => {
      await this.api.deleteTurn(chat.id, turn.requestId);
      this.turns.value = this.turns.value.filter((other) => other !== turn);
      this.events.onTurns(chat.id);
    });
    this.#isDeleting = false;
  }

  async react(turn: Turn, reaction: Reaction | null): Promise<void> {
    const [chat, messageId, before] = [this.chat.value, turn.messageId.value, turn.reaction.value];
    if (chat === null || messageId === null) return;
    turn.reaction.value = reaction;
    await this.#attempt(async () => {
      try {
        await this.api.setReaction(chat.id, messageId, reaction);
      } catch (error) {
        turn.reaction.value = before;
        throw error;
      }
    });
  }

  /** Learn what messages do not carry: sources, tools, why another model answered. */
  async loadDetails(turn: Turn): Promise<void> {
    const chat = this.chat.value;
    if (chat === null || turn.hasDetails.value) return;
    const listener: TurnListener = { onEvent: (event) => turn.onDetail(event), onLink: () => {} };
    await this.client.attach(chat.id, turn.requestId, listener, this.#closed.signal);
    turn.hasDetails.value = true;
  }

  async rename(title: string): Promise<void> {
    const chat = this.chat.value;
    if (chat === null) return;
    await this.#attempt(async () => this.#noteChat(await this.api.renameChat(chat.id, title)));
  }

  async attachFiles(files: Iterable<File>): Promise<void> {
    this.notice.value = null;
    await this.#attempt(async () => this.uploads.add([...files], (await this.#ensureChat()).id));
  }

  async removeUpload(upload: Upload): Promise<void> {
    const chat = this.chat.value;
    if (chat !== null) await this.#attempt(() => this.uploads.remove(upload, chat.id));
  }

  async #load(chatId: string): Promise<void> {
    const [chat, page] = await Promise.all([this.api.getChat(chatId), this.api.listMessages(chatId, null)]);
    if (this.#closed.signal.aborted) return;
    this.failure.value = null;
    this.#noteChat(chat, { isNews: false });
    const known = new Map(this.turns.value.map((turn) => [turn.requestId, turn]));
    const [newest, split] = turnsOf(page, known);
    const oldestId = newest[0]?.requestId;
    const overlap = this.turns.value.findIndex((turn) => turn.requestId === oldestId);
    // Older pages that were loaded stay, and so does a question that is on its way.
    const older = this.turns.value.slice(0, Math.max(0, overlap));
    const asked = this.turns.value.filter((turn) => turn.isLive.value && !newest.includes(turn));
    this.turns.value = [...older, ...newest, ...asked];
    if (overlap === -1) this.#noteOlder(page, split);
    this.#follow(chat);
  }

  /** Attach to the turn that runs, or learn how the last one ended. */
  #follow(chat: Chat): void {
    const last = this.latest.value;
    if (last === null || this.running.value !== null) return;
    if (chat.running_request_id === last.requestId) {
      last.live();
      void this.client
        .attach(chat.id, last.requestId, last, this.#closed.signal)
        .then((ending) => this.#settle(ending, last));
    } else if (last.hasText.value) {
      void this.loadDetails(last);
    } else if (!last.hasDetails.value) {
      void this.client.attach(chat.id, last.requestId, last, this.#closed.signal);
    }
  }

  async #loadOlder(): Promise<void> {
    const chat = this.chat.value;
    if (chat === null || this.#olderCursor === null) return;
    await this.#attempt(async () => {
      const { items, page_info } = await this.api.listMessages(chat.id, this.#olderCursor);
      const page = { items: [...this.#split, ...items], page_info };
      const [older, split] = turnsOf(page, new Map());
      const known = new Set(this.turns.value.map(({ requestId }) => requestId));
      this.turns.value = [...older.filter(({ requestId }) => !known.has(requestId)), ...this.turns.value];
      this.#noteOlder(page, split);
    });
  }

  #noteOlder(page: Page<Message>, split: Message[]): void {
    this.#olderCursor = page.page_info.next_cursor;
    this.hasOlder.value = this.#olderCursor !== null;
    this.#split = split;
  }

  async #replace(
    turn: Turn,
    question: Question,
    ask: (chatId: string, next: Turn, asking: Asking) => Promise<Ending>,
  ): Promise<void> {
    const chat = this.chat.value;
    if (chat === null || this.running.value !== null) return;
    this.notice.value = null;
    const next = Turn.asked(newUuid(), question, turn.isWebSearchWanted);
    const swap = (from: Turn, to: Turn): void => {
      this.turns.value = this.turns.value.map((other) => (other === from ? to : other));
    };
    swap(turn, next);
    const ending = await ask(chat.id, next, this.#asking(next, chat.id));
    if (ending.kind === "refused") swap(next, turn);
    await this.#settle(ending, next);
  }

  /** How `turn` is asked for: once the server has accepted it others are told, and `onAccepted` is called. */
  #asking(turn: Turn, chatId: string, onAccepted?: () => void): Asking {
    const left = new AbortController();
    const closed = this.#closed.signal;
    const leave = (): void => {
      if (turn.isAccepted) left.abort();
    };
    closed.addEventListener("abort", leave);
    const accept = (): void => {
      turn.isAccepted = true;
      onAccepted?.();
      if (closed.aborted) leave();
      if (turn.isStopping.value) void this.#cancel(chatId, turn);
      this.events.onTurns(chatId);
      void this.#updateChat(chatId);
    };
    const onEvent = (event: TurnEvent): void => {
      turn.onEvent(event);
      if (!turn.isAccepted) accept();
    };
    return { listener: { onLink: (link) => turn.onLink(link), onEvent }, signal: left.signal };
  }

  async #cancel(chatId: string, turn: Turn): Promise<void> {
    try {
      await this.api.cancelTurn(chatId, turn.requestId);
    } catch (error) {
      turn.isStopping.value = false;
      this.#complain(error);
    }
  }

  async #settle(ending: Ending, turn: Turn): Promise<void> {
    const chatId = this.chat.value?.id;
    if (ending.kind === "aborted" || chatId === undefined) return;
    if (ending.kind === "refused") {
      if (ending.problem.status === 401 && !this.#closed.signal.aborted) return this.events.onUnauthenticated();
      this.#complain(new ProblemError(ending.problem));
      if (turn.phase.value === "waiting") turn.phase.value = "interrupted";
      const { code } = ending.problem;
      if (code === "web_search_disabled") this.isWebSearchOn.value = false;
      // Another tab or device was faster: show what it did.
      if (code === "generation_in_progress" || code === "not_latest_turn" || code === "turn_not_found")
        await this.refresh();
    } else {
      await this.#updateChat(chatId);
    }
    this.events.onSettled();
  }

  async #updateChat(chatId: string): Promise<void> {
    const chat = await this.api.getChat(chatId).catch(() => null); // its title may wait for the next occasion
    if (chat !== null) this.#noteChat(chat);
  }

  /** The chat is gone: what is asked now is the beginning of another. */
  #beginAnew(): void {
    this.#id = this.chat.value = null;
    this.turns.value = [];
    this.#noteOlder(NO_MESSAGES, []);
    this.isMissing.value = false;
  }

  async #ensureChat(): Promise<Chat> {
    if (this.chat.value === null && this.#id !== null) await this.#load(this.#id);
    if (this.chat.value !== null) return this.chat.value;
    this.#creation ??= this.api
      .createChat(this.chosenModel.value)
      .then((created) => {
        this.#noteChat(created);
        return created;
      })
      .finally(() => (this.#creation = null));
    return await this.#creation;
  }

  #noteChat(chat: Chat, { isNews = true } = {}): void {
    this.chat.value = chat;
    this.#id = chat.id;
    if (isNews) this.events.onChat(chat);
  }

  async #attempt(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      this.#complain(error);
    }
  }

  #complain(error: unknown): void {
    if (!(error instanceof ProblemError)) throw error;
    if (error.problem.status === 401) return; // the page asks for a token
    this.notice.value = { text: noticeText(error.problem), code: error.problem.code };
  }
}

/** What a stream is asked for with. The signal outlives the chat's view until the server has the question. */
interface Asking {
  listener: TurnListener;
  signal: AbortSignal;
}

/**
 * A page of messages, newest first, as turns, oldest first, and the answer at its end whose question is on the next page.
 * Turns in `known` stay the same objects.
 */
function turnsOf(page: Page<Message>, known: Map<string, Turn>): [Turn[], Message[]] {
  const isSplit = page.page_info.next_cursor !== null && page.items.at(-1)?.role === "assistant";
  const split = isSplit ? page.items.slice(-1) : [];
  const byRequest = new Map<string, { question?: Message; answer?: Message }>();
  for (const message of page.items.slice(0, page.items.length - split.length).reverse()) {
    const entry = byRequest.get(message.request_id) ?? {};
    if (message.role === "user") entry.question = message;
    else if (message.role === "assistant") entry.answer = message;
    byRequest.set(message.request_id, entry);
  }
  const turns = [...byRequest].map(([requestId, { question, answer }]) => {
    const turn = known.get(requestId);
    if (turn === undefined) return Turn.stored(requestId, question ?? NO_QUESTION, answer ?? null);
    if (!turn.isLive.value && answer !== undefined) turn.reaction.value = answer.my_reaction;
    return turn;
  });
  return [turns, split];
}

const NO_MESSAGES: Page<Message> = { items: [], page_info: { limit: 0, next_cursor: null, prev_cursor: null } };
const NO_QUESTION: Question = { content: "", attachments: [] };

function noticeText(problem: Problem): string {
  switch (problem.code) {
    case "quota_exceeded":
      return QUOTA_TEXTS[problem.quota_scope ?? ""] ?? "Your quota is used up.";
    case "generation_in_progress":
      return "An answer is being written already, in another tab or on another device.";
    case "offline":
    case "unreachable":
      return "The server cannot be reached. Try again in a moment.";
    default:
      return problem.retryAfterMs === undefined ? problem.detail : `${sentence(problem.detail)} ${whenAgain(problem)}`;
  }
}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function whenAgain({ retryAfterMs = 0 }: Problem): string {
  const seconds = Math.ceil(retryAfterMs / 1_000);
  if (seconds > 90) return `Try again in ${Math.ceil(seconds / 60)} minutes.`;
  return `Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.`;
}

const QUOTA_TEXTS: Record<string, string> = {
  tokens: "Your credits are used up. They come back as shown under Credits.",
  uploads: "No more uploads today.",
  web_search: "No more web searches today. You can still ask without.",
  code_interpreter: "The code interpreter is used up for today.",
  image_inputs: "No more images today. You can still ask without.",
};
