/**
 * Shows a growing Markdown text in an element, at a cost that does not depend on how long the text already is.
 *
 * Everything before the last block can no longer change, and is rendered once. Only the last block is rendered again as
 * it grows; if it becomes long, its beginning is settled too (`split.ts`), and what follows is put into the same element.
 * The text of a listing is only ever appended to. What has arrived since the last frame is shown in the next, and no more
 * than a slice of it, so that a long backlog does not hold the page up; what cannot be split is shown less often.
 */

import type { Token, Tokens } from "marked";
import type { AnswerText } from "../state/answerText";
import { blocksOf, frameCode, renderBlocks } from "./render";
import { split } from "./split";

const SLICE = 6_000;
const LINES_PER_CHUNK = 40;
/** A frame that took longer than this, in milliseconds, is followed by a pause of so many times its length. */
const LONG_FRAME_MS = 10;
const PAUSE = 3;

export class AnswerView {
  readonly #tail = document.createElement("div");
  #text = "";
  /** How much of the text is shown, and how much of that is settled. */
  #shownTo = 0;
  #settledTo = 0;
  /** The block whose beginning is settled: the text after that goes on with it. */
  #open: OpenBlock | null = null;
  #listing: Listing | null = null;
  #frame: number | null = null;
  #pauseUntil = 0;

  readonly #unsubscribe: () => void;

  /** @param onShown called after each change of the element. */
  constructor(
    private readonly root: HTMLElement,
    private readonly source: AnswerText,
    private readonly onShown: () => void,
  ) {
    this.#tail.className = "tail";
    root.replaceChildren(this.#tail);
    this.#unsubscribe = source.subscribe(() => this.#schedule());
    this.#showMore();
  }

  dispose(): void {
    this.#unsubscribe();
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
  }

  #clear(): void {
    this.#shownTo = this.#settledTo = 0;
    this.#open = null;
    this.#listing = null;
    this.#tail.replaceChildren();
    this.root.replaceChildren(this.#tail);
  }

  #schedule(): void {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      if (performance.now() < this.#pauseUntil) this.#schedule();
      else this.#showMore();
    });
  }

  #showMore(): void {
    const begin = performance.now();
    const text = this.source.value.replace(/\r\n?/g, "\n"); // as the lexer counts
    if (!text.startsWith(this.#text)) this.#clear();
    this.#text = text;
    if (this.#shownTo < text.length) {
      this.#shownTo = Math.min(text.length, this.#shownTo + SLICE);
      this.#showTail();
    }
    this.onShown();
    const end = performance.now();
    this.#pauseUntil = end - begin > LONG_FRAME_MS ? end + PAUSE * (end - begin) : 0;
    if (this.#shownTo < text.length) this.#schedule();
  }

  #showTail(): void {
    const tokens = this.#blocks();
    const last = tokens.findLastIndex((token) => token.type !== "space");
    if (last === -1) return;
    this.#settle(tokens.slice(0, last));
    const { beginning, rest, context } = split(tokens[last]!);
    if (beginning !== null) this.#settleBeginning(beginning, context);
    this.#showOpen(rest);
  }

  /** What is not settled. A row of a table is one only below the head of its table, which is put before it. */
  #blocks(): Token[] {
    const context = this.#open?.context ?? "";
    const tokens = blocksOf(context + this.#text.slice(this.#settledTo, this.#shownTo));
    if (context !== "") tokens[0] = { ...tokens[0]!, raw: tokens[0]!.raw.slice(context.length) };
    return tokens;
  }

  #settle(tokens: Token[]): void {
    if (tokens.length === 0) return;
    this.#settledTo += lengthOf(tokens);
    const first = tokens[0]!;
    if (this.#open?.type === first.type) {
      this.#open.settle(renderBlocks([first]));
      tokens = tokens.slice(1);
    } else if (first.type === "code" && this.#listing?.show(first as Tokens.Code) === true) {
      this.root.insertBefore(this.#listing.element, this.#tail);
      tokens = tokens.slice(1);
    }
    this.#open?.showTail(null);
    this.#open = this.#listing = null;
    this.root.insertBefore(renderBlocks(tokens), this.#tail);
    this.#tail.replaceChildren();
  }

  #settleBeginning(beginning: Token, context: string): void {
    if (this.#open?.type === beginning.type) {
      this.#settledTo += lengthOf([beginning]);
      this.#open.settle(renderBlocks([beginning]));
    } else {
      this.#settle([beginning]);
      this.#open = new OpenBlock(beginning.type, context, this.#tail.previousElementSibling!);
    }
  }

  #showOpen(token: Token): void {
    if (token.type === "code") {
      this.#open?.showTail(null);
      this.#showListing(token as Tokens.Code);
      return;
    }
    this.#listing = null;
    const isPart = this.#open?.type === token.type;
    this.#open?.showTail(isPart ? renderBlocks([token]) : null);
    this.#tail.replaceChildren(...(isPart ? [] : [renderBlocks([token])]));
  }

  #showListing({ text, lang }: Tokens.Code): void {
    const code = { text: text.replace(/\n[`~]+$/, ""), lang }; // probably the beginning of the fence that closes it
    if (this.#listing?.show(code) === true) return;
    this.#listing = new Listing(lang ?? "");
    this.#listing.show(code);
    this.#tail.replaceChildren(this.#listing.element);
  }
}

function lengthOf(tokens: Token[]): number {
  return tokens.reduce((length, token) => length + token.raw.length, 0);
}

/** The element of a block whose end is still to come: what is settled of it stays, what comes after that may change. */
class OpenBlock {
  readonly #parent: Element;
  #tail: ChildNode[] = [];

  /**
   * @param type of the tokens that go on with it.
   * @param context what the text after it is to be read behind.
   */
  constructor(
    readonly type: string,
    readonly context: string,
    element: Element,
  ) {
    this.#parent = partsOf(element);
  }

  settle(rendered: DocumentFragment): void {
    this.showTail(rendered);
    this.#tail = [];
  }

  showTail(rendered: DocumentFragment | null): void {
    for (const node of this.#tail) node.remove();
    this.#tail = rendered === null ? [] : [...partsOf(rendered.firstElementChild!).childNodes];
    this.#parent.append(...this.#tail);
  }
}

/** What has the items, sentences or rows of a block as its children. */
function partsOf(element: Element): Element {
  return element.querySelector(":scope > table > tbody") ?? element;
}

/** A code block that grows. Its lines are laid out in chunks, so that a new one does not move all the others. */
class Listing {
  readonly element: HTMLElement;
  readonly #code = document.createElement("code");
  #shown = "";
  #lines = 0;
  #chunk: HTMLElement | null = null;

  constructor(private readonly language: string) {
    const pre = document.createElement("pre");
    pre.dataset["language"] = /^[\w+#.-]+/.exec(language)?.[0] ?? "";
    pre.append(this.#code);
    this.element = frameCode(pre);
  }

  /** False if it does not continue what is shown: its language, too, comes in pieces. */
  show({ text, lang }: { text: string; lang?: string | undefined }): boolean {
    if (!text.startsWith(this.#shown) || (lang ?? "") !== this.language) return false;
    for (const line of text.slice(this.#shown.length).match(/[^\n]*\n|[^\n]+/g) ?? []) {
      if (this.#chunk === null || this.#lines >= LINES_PER_CHUNK) {
        this.#chunk = document.createElement("span");
        this.#chunk.className = "chunk";
        this.#code.append(this.#chunk);
        this.#lines = 0;
      }
      this.#chunk.append(line);
      if (line.endsWith("\n")) this.#lines += 1;
    }
    this.#shown = text;
    return true;
  }
}
