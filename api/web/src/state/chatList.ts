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

  /** Read the first page again. What was loaded beyond it stays, unless there may be others between. */
  async refresh(): Promise<void> {
    const { items, page_info } = await this.api.listChats(null);
    const known = this.chats.value;
    const [fresh, last] = [new Set(items.map(({ id }) => id)), items.at(-1)];
    const isConnected = last !== undefined && page_info.next_cursor !== null && known.some(({ id }) => fresh.has(id));
    const older = isConnected ? known.filter((chat) => !fresh.has(chat.id) && chat.updated_at < last.updated_at) : [];
    this.chats.value = [...items, ...older];
    if (older.length === 0) this.#moveTo(page_info.next_cursor);
    this.isLoaded.value = true;
  }

  clear(): void {
    this.chats.value = [];
    this.#moveTo(null);
    this.isLoaded.value = false;
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
    const cursor = this.#cursor;
    if (cursor === null) return;
    const page = await this.api.listChats(cursor);
    if (cursor !== this.#cursor) return; // the list has begun anew meanwhile
    const known = new Set(this.chats.value.map(({ id }) => id)); // one may have moved between two pages
    this.chats.value = [...this.chats.value, ...page.items.filter(({ id }) => !known.has(id))];
    this.#moveTo(page.page_info.next_cursor);
  }

  #moveTo(cursor: string | null): void {
    this.#cursor = cursor;
    this.hasMore.value = cursor !== null;
  }
}
