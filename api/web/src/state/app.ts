/** Everything the page holds, made once: it opens with the session and follows the address (`#/chats/<id>`). */

import { computed, effect, signal, untracked } from "@preact/signals";
import { Api, type Chat, type Model, type QuotaStatus } from "../api";
import type { Config } from "../config";
import { ProblemError } from "../problem";
import { EventLogClient } from "../stream/eventLogClient";
import { createGate } from "../stream/gate";
import { ChatList } from "./chatList";
import { Conversation, type ConversationEvents } from "./conversation";
import { Draft } from "./draft";
import { Session } from "./session";
import { Tabs } from "./tabs";

/** How often is looked for the end of answers in chats that are not open. */
const LOOK_MS = 4_000;

export class App {
  readonly session: Session;
  readonly chats: ChatList;
  readonly conversation = signal<Conversation | null>(null);
  readonly models = signal<Model[]>([]);
  readonly quota = signal<QuotaStatus | null>(null);
  /** Why the page could not be filled. */
  readonly failure = signal<string | null>(null);
  readonly isOnline = signal(navigator.onLine);
  /** The chat that the address names; null: a new one. */
  readonly selectedId = signal<string | null>(null);
  readonly #drafts = new Map<string | null, Draft>();
  readonly #api: Api;
  readonly #client: EventLogClient;
  readonly #tabs = new Tabs();

  constructor(readonly config: Config) {
    const session = (this.session = new Session(config.auth));
    const authorization = (): string | null => session.authorization();
    // An answer to a token that has been replaced meanwhile says nothing of the new one.
    const onUnauthenticated = (refused: string | null): void => {
      if (refused === session.authorization()) this.#leave();
    };
    this.#api = new Api({ basePath: config.basePath, authorization, onUnauthenticated });
    this.#client = new EventLogClient({
      basePath: config.basePath,
      authorization,
      gate: createGate(),
      silenceMs: config.maxSilenceSecs * 2_000,
    });
    this.chats = new ChatList(this.#api);
  }

  start(): void {
    this.#tabs.listen((word) => {
      if (word.kind === "chats") {
        if (word.gone !== undefined) this.chats.drop(word.gone);
        void this.#quietly(() => this.chats.refresh());
      } else if (word.chatId === this.selectedId.value) void this.conversation.value?.refresh();
    });
    window.addEventListener("hashchange", () => this.#followAddress());
    window.addEventListener("online", () => {
      this.isOnline.value = true;
      this.#client.wake();
      void this.#lookAgain();
    });
    window.addEventListener("offline", () => {
      this.isOnline.value = false;
      this.#client.drop();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") return;
      this.#client.wake();
      void this.#lookAgain();
    });
    // Nobody tells of an answer that ends in a chat that is not open.
    const areOthersRunning = computed(() =>
      this.chats.chats.value.some(({ id, running_request_id: turn }) => turn !== undefined && id !== this.selectedId.value),
    );
    effect(() => {
      if (!areOthersRunning.value) return;
      const timer = setInterval(() => {
        if (document.visibilityState === "visible") void this.#quietly(() => this.chats.refresh());
      }, LOOK_MS);
      return () => clearInterval(timer);
    });
    effect(() => {
      const isOpen = this.session.isOpen.value;
      untracked(() => (isOpen ? void this.load() : this.#forget()));
    });
  }

  async load(): Promise<void> {
    this.#followAddress();
    if (this.conversation.value?.failure.value != null) void this.conversation.value.refresh();
    await this.#attempt(async () => {
      const models = this.#api.listModels().then((found) => (this.models.value = found));
      await Promise.all([models, this.chats.refresh(), this.refreshQuota()]);
    });
  }

  /** A page without a chat yet; it is made with the first message. */
  newChat(): void {
    if (location.hash === "" || location.hash === "#/") this.#followAddress({ always: true });
    else location.hash = "#/";
  }

  async renameChat(chat: Chat, title: string): Promise<void> {
    const open = this.conversation.value;
    if (open !== null && chat.id === this.selectedId.value) return open.rename(title);
    await this.#attempt(async () => this.#noteChat(await this.#api.renameChat(chat.id, title)));
  }

  async deleteChat(chat: Chat): Promise<void> {
    await this.#attempt(async () => {
      await this.#api.deleteChat(chat.id);
      this.chats.drop(chat.id);
      this.#drafts.get(chat.id)?.uploads.abort();
      this.#drafts.delete(chat.id);
      this.#tabs.tell({ kind: "chats", gone: chat.id });
      this.#tabs.tell({ kind: "turns", chatId: chat.id });
      if (chat.id === this.selectedId.value) this.newChat();
    });
  }

  async refreshQuota(): Promise<void> {
    this.quota.value = await this.#api.getQuota();
  }

  modelName(id: string | null): string {
    return this.models.value.find((model) => model.model_id === id)?.display_name ?? id ?? "";
  }

  #noteChat(chat: Chat): void {
    this.chats.put(chat);
    this.#tabs.tell({ kind: "chats" });
  }

  #followAddress({ always = false } = {}): void {
    const id = /^#\/chats\/([0-9a-f-]{36})$/.exec(location.hash)?.[1] ?? null;
    if (!always && this.conversation.value !== null && id === this.selectedId.value) return;
    this.#closeConversation();
    const draft = this.#drafts.get(id) ?? new Draft(this.#api);
    this.#drafts.set(id, draft);
    let draftOf = id;
    const events: ConversationEvents = {
      onChat: (chat) => {
        this.#noteChat(chat);
        if (draftOf !== chat.id) {
          // It has become a chat. What is prepared belongs to that one, even if another is looked at meanwhile.
          this.#drafts.delete(draftOf);
          this.#drafts.set((draftOf = chat.id), draft);
          if (this.conversation.value === conversation) this.#settleAddress(chat.id);
        }
      },
      onTurns: (chatId) => this.#tabs.tell({ kind: "turns", chatId }),
      onSettled: () => void this.#quietly(() => this.refreshQuota()),
      onUnauthenticated: () => this.#leave(),
    };
    const conversation = new Conversation(this.#api, this.#client, events, draft);
    this.selectedId.value = id;
    this.conversation.value = conversation;
    if (id !== null) void conversation.open(id);
  }

  /** A draft has become a chat: say so in the address, without opening it again. */
  #settleAddress(id: string): void {
    this.selectedId.value = id;
    history.pushState(null, "", `#/chats/${id}`);
  }

  #closeConversation(): void {
    const open = this.conversation.value;
    if (open === null) return;
    open.close();
    this.conversation.value = null;
  }

  /** Somebody is done here: nothing of theirs is left to whoever comes next. */
  signOut(): void {
    for (const draft of this.#drafts.values()) draft.uploads.abort();
    this.#drafts.clear();
    this.session.close();
  }

  #leave(): void {
    this.session.close("The token was not accepted, or has expired.");
  }

  async #lookAgain(): Promise<void> {
    if (!this.session.isOpen.value) return;
    await this.conversation.value?.refresh();
    await this.#quietly(async () => {
      await Promise.all([this.chats.refresh(), this.refreshQuota()]);
    });
  }

  #forget(): void {
    this.#closeConversation();
    this.chats.clear();
    this.quota.value = null;
  }

  /** For what somebody has asked for: they are told if it fails. */
  async #attempt(action: () => Promise<void>): Promise<void> {
    this.failure.value = null;
    try {
      await action();
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      if (error.problem.status !== 401) this.failure.value = error.message;
    }
  }

  /** For what happens in the background, and will happen again. */
  async #quietly(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
    }
  }
}
