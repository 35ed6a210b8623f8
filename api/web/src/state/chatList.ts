/** The caller's chats, newest change first, loaded page by page. */

import { signal } from "@preact/signals";
import type { Api, Chat } from "../api";

export class ChatList {
  readonly chats = signal<Chat[]>([]);
  readonly isLoaded = signal(false);
  readonly hasMore = signal(false);
  #cursor: string | null = null;
  #loading: Promise<void> | null = null;

  constructor(private readonly api: Api) {}

  /** Read the first page again. What was loaded beyond it is loaded again when it is scrolled to. */
  async refresh(): Promise<void> {
    const page = await this.api.listChats(null);
    this.chats.value = page.items;
    this.#cursor = page.page_info.next_cursor;
    this.hasMore.value = this.#cursor !== null;
    this.isLoaded.value = true;
  }

  loadMore(): Promise<void> {
    this.#loading ??= this.#loadMore().finally(() => (this.#loading = null));
    return this.#loading;
  }

  /** A chat is new or has changed: it is now the first. */
  put(chat: Chat): void {
    this.chats.value = [chat, ...this.chats.value.filter(({ id }) => id !== chat.id)];
  }

  drop(id: string): void {
    this.chats.value = this.chats.value.filter((chat) => chat.id !== id);
  }

  async #loadMore(): Promise<void> {
    if (this.#cursor === null) return;
    const page = await this.api.listChats(this.#cursor);
    const known = new Set(this.chats.value.map(({ id }) => id)); // one may have moved between two pages
    this.chats.value = [...this.chats.value, ...page.items.filter(({ id }) => !known.has(id))];
    this.#cursor = page.page_info.next_cursor;
    this.hasMore.value = this.#cursor !== null;
  }
}
