/** The open chat: its turns, and all that can be done with them. Before its first message it is a draft without a chat. */

import { computed, signal } from "@preact/signals";
import type { Api, Chat, Message, Page, Reaction } from "../api";
import { ProblemError, type Problem } from "../problem";
import type { Ending, EventLogClient, TurnListener } from "../stream/eventLogClient";
import { Turn, type Question } from "./turn";
import { Uploads } from "./uploads";

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
  readonly hasOlder = signal(false);
  readonly notice = signal<Notice | null>(null);
  /** What has been typed. It survives a send that was refused. */
  readonly draft = signal("");
  readonly isWebSearchOn = signal(false);
  readonly chosenModel = signal<string | null>(null);
  readonly editing = signal<Turn | null>(null);
  readonly uploads: Uploads;
  #olderCursor: string | null = null;
  #olderPage: Promise<void> | null = null;
  /** An answer whose question is on the next older page. */
  #split: Message[] = [];
  #creation: Promise<Chat> | null = null;
  readonly #closed = new AbortController();

  constructor(
    private readonly api: Api,
    private readonly client: EventLogClient,
    private readonly events: ConversationEvents,
  ) {
    this.uploads = new Uploads(api);
  }

  readonly latest = computed(() => this.turns.value.at(-1) ?? null);
  readonly running = computed(() => this.turns.value.find((turn) => turn.isLive.value) ?? null);

  async open(chatId: string): Promise<void> {
    this.isLoading.value = true;
    try {
      await this.#load(chatId);
    } catch (error) {
      this.isMissing.value = error instanceof ProblemError && error.problem.status === 404;
      if (!this.isMissing.value) this.#complain(error);
    } finally {
      this.isLoading.value = false;
    }
  }

  /** Stop reading; what runs goes on at the server. */
  close(): void {
    this.#closed.abort();
    this.uploads.clear();
  }

  /** Look again: something may have happened in another tab or at another device. */
  async refresh(): Promise<void> {
    const chat = this.chat.value;
    if (chat === null || this.isLoading.value) return;
    try {
      await this.#load(chat.id);
    } catch (error) {
      if (error instanceof ProblemError && error.problem.status === 404) this.isMissing.value = true;
    }
  }

  loadOlder(): Promise<void> {
    this.#olderPage ??= this.#loadOlder().finally(() => (this.#olderPage = null));
    return this.#olderPage;
  }

  /** Ask what was typed, with the files that are ready. */
  async send(): Promise<void> {
    const content = this.draft.value;
    if (content.trim() === "" || this.running.value !== null || this.uploads.isPending.value) return;
    this.notice.value = null;
    try {
      const { id } = await this.#ensureChat();
      const attachments = this.uploads.ready.value;
      const question: Question = {
        content,
        attachments: attachments.map(({ id, ...attachment }) => ({ attachment_id: id, ...attachment })),
      };
      const turn = new Turn(crypto.randomUUID(), question, this.isWebSearchOn.value);
      this.turns.value = [...this.turns.value, turn];
      this.draft.value = "";
      const message = {
        content,
        request_id: turn.requestId,
        attachment_ids: attachments.map((attachment) => attachment.id),
        web_search: { enabled: turn.isWebSearchWanted },
      };
      const listener = this.#announcing(turn, id, () => this.uploads.clear());
      const ending = await this.client.send(id, message, listener, this.#closed.signal);
      if (ending.kind === "refused") {
        this.turns.value = this.turns.value.filter((other) => other !== turn);
        if (this.draft.value === "") this.draft.value = content;
      }
      await this.#settle(ending, turn);
    } catch (error) {
      this.#complain(error);
    }
  }

  async retry(turn: Turn): Promise<void> {
    await this.#replace(turn, turn.question, (chatId, next, listener) =>
      this.client.retry(chatId, turn.requestId, next.requestId, listener, this.#closed.signal),
    );
  }

  async edit(turn: Turn, content: string): Promise<void> {
    this.editing.value = null;
    await this.#replace(turn, { ...turn.question, content }, (chatId, next, listener) =>
      this.client.edit(chatId, turn.requestId, content, next.requestId, listener, this.#closed.signal),
    );
  }

  /** Stop the running turn, whichever tab has asked for it. */
  async stop(): Promise<void> {
    const [chat, turn] = [this.chat.value, this.running.value];
    if (chat === null || turn === null) return;
    turn.isStopping.value = true;
    await this.#attempt(() => this.api.cancelTurn(chat.id, turn.requestId));
  }

  async deleteLast(): Promise<void> {
    const [chat, turn] = [this.chat.value, this.latest.value];
    if (chat === null || turn === null) return;
    await this.#attempt(async () => {
      await this.api.deleteTurn(chat.id, turn.requestId);
      this.turns.value = this.turns.value.filter((other) => other !== turn);
      this.events.onTurns(chat.id);
    });
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

  async removeUpload(upload: Uploads["items"]["value"][number]): Promise<void> {
    const chat = this.chat.value;
    if (chat !== null) await this.#attempt(() => this.uploads.remove(upload, chat.id));
  }

  async #load(chatId: string): Promise<void> {
    const [chat, page] = await Promise.all([this.api.getChat(chatId), this.api.listMessages(chatId, null)]);
    if (this.#closed.signal.aborted) return;
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
    ask: (chatId: string, next: Turn, listener: TurnListener) => Promise<Ending>,
  ): Promise<void> {
    const chat = this.chat.value;
    if (chat === null || this.running.value !== null) return;
    this.notice.value = null;
    const next = new Turn(crypto.randomUUID(), question, turn.isWebSearchWanted);
    const swap = (from: Turn, to: Turn): void => {
      this.turns.value = this.turns.value.map((other) => (other === from ? to : other));
    };
    swap(turn, next);
    const ending = await ask(chat.id, next, this.#announcing(next, chat.id));
    if (ending.kind === "refused") swap(next, turn);
    await this.#settle(ending, next);
  }

  /** `turn` as a listener that also tells others, and `onAccepted`, when the server has accepted it. */
  #announcing(turn: Turn, chatId: string, onAccepted?: () => void): TurnListener {
    let isAccepted = false;
    return {
      onLink: (link) => turn.onLink(link),
      onEvent: (event) => {
        turn.onEvent(event);
        if (isAccepted) return;
        isAccepted = true;
        onAccepted?.();
        this.events.onTurns(chatId);
        void this.#updateChat(chatId);
      },
    };
  }

  async #settle(ending: Ending, turn: Turn): Promise<void> {
    const chatId = this.chat.value?.id;
    if (ending.kind === "aborted" || chatId === undefined) return;
    if (ending.kind === "refused") {
      if (ending.problem.status === 401) return this.events.onUnauthenticated();
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
    if (chat !== null && !this.#closed.signal.aborted) this.#noteChat(chat);
  }

  #ensureChat(): Promise<Chat> {
    const chat = this.chat.value;
    if (chat !== null) return Promise.resolve(chat);
    this.#creation ??= this.api
      .createChat(this.chosenModel.value)
      .then((created) => {
        this.#noteChat(created);
        return created;
      })
      .finally(() => (this.#creation = null));
    return this.#creation;
  }

  #noteChat(chat: Chat, { isNews = true } = {}): void {
    this.chat.value = chat;
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
      return problem.detail;
  }
}

const QUOTA_TEXTS: Record<string, string> = {
  tokens: "Your credits are used up. They come back as shown under Credits.",
  uploads: "No more uploads today.",
  web_search: "No more web searches today. You can still ask without.",
  code_interpreter: "The code interpreter is used up for today.",
  image_inputs: "No more images today. You can still ask without.",
};
