/** What tabs of one browser tell each other, so that all show the same without asking the server over and over. */

export type Word =
  /** A turn of the chat has begun, or its turns have changed. */
  | { kind: "turns"; chatId: string }
  /** The list of chats has changed; one may be gone. */
  | { kind: "chats"; gone?: string };

export class Tabs {
  readonly #channel = new BroadcastChannel("mini-chat:tabs");

  tell(word: Word): void {
    this.#channel.postMessage(word);
  }

  listen(hear: (word: Word) => void): void {
    this.#channel.onmessage = ({ data }: MessageEvent<Word>) => hear(data);
  }
}
