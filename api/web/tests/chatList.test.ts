import { describe, expect, it } from "vitest";
import type { Api, Chat, Page } from "../src/api";
import { ChatList } from "../src/state/chatList";

function chat(number: number): Chat {
  const time = new Date(Date.UTC(2026, 0, 1) - number * 60_000).toISOString();
  return { id: `chat-${number}`, model: "m", message_count: 0, created_at: time, updated_at: time };
}

/** Chats by number, the lowest is the newest; two a page, the cursor is the last one's number. */
class Server {
  chats = [1, 2, 3, 4, 5, 6, 7].map(chat);
  /** Runs before an answer is given. */
  meanwhile: () => Promise<void> = async () => {};

  async listChats(cursor: string | null): Promise<Page<Chat>> {
    const rest = this.chats.filter(({ updated_at }) => cursor === null || updated_at < cursor);
    const [items, more] = [rest.slice(0, 2), rest.length > 2];
    const { meanwhile } = this;
    this.meanwhile = async () => {};
    await meanwhile();
    const next = more ? items.at(-1)!.updated_at : null;
    return { items, page_info: { limit: 2, next_cursor: next, prev_cursor: null } };
  }
}

async function loaded(pages: number): Promise<[ChatList, Server]> {
  const server = new Server();
  const list = new ChatList(server as unknown as Api);
  await list.refresh();
  for (let page = 1; page < pages; page++) await list.loadMore();
  return [list, server];
}

function numbers(list: ChatList): number[] {
  return list.chats.value.map(({ id }) => Number(id.slice("chat-".length)));
}

describe("a list that was loaded in part", () => {
  it("keeps that when it is refreshed, and goes on after it", async () => {
    const [list, server] = await loaded(2);
    server.chats = [chat(0), ...server.chats];
    await list.refresh();
    expect(numbers(list)).toEqual([0, 1, 2, 3, 4]);
    await list.loadMore();
    expect(numbers(list)).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it("begins anew if there may be others between", async () => {
    const [list, server] = await loaded(2);
    server.chats = [chat(-1), chat(-2), chat(-3)].reverse().concat(server.chats);
    await list.refresh();
    expect(numbers(list)).toEqual([-3, -2]);
    await list.loadMore();
    expect(numbers(list)).toEqual([-3, -2, -1, 1]);
  });

  it("has no hole if it begins anew while more is loaded", async () => {
    const [list, server] = await loaded(2);
    server.meanwhile = async () => {
      server.chats = [chat(-1), chat(-2), chat(-3)].reverse().concat(server.chats);
      await list.refresh();
    };
    await list.loadMore();
    await list.loadMore();
    expect(numbers(list)).toEqual([-3, -2, -1, 1]);
  });

  it("loses what was deleted", async () => {
    const [list, server] = await loaded(3);
    server.chats = server.chats.filter(({ id }) => id !== "chat-5");
    list.drop("chat-5");
    await list.refresh();
    expect(numbers(list)).toEqual([1, 2, 3, 4, 6]);
  });
});
