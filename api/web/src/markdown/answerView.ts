/**
 * Shows a growing Markdown text in an element, at a cost that does not depend on how long the text already is.
 *
 * Everything before the last block can no longer change, and is rendered once. Only the last block is rendered again as
 * it grows; if it becomes long, its beginning is settled too: the items of a list, the first sentences of a paragraph.
 * The text of a listing is only ever appended to. What has arrived since the last frame is shown in the next, and no more
 * than a slice of it, so that a long backlog does not hold the page up.
 */

import type { Token, Tokens } from "marked";
import type { AnswerText } from "../state/answerText";
import { blocksOf, frameCode, renderBlocks } from "./render";

const SLICE = 6_000;
const LONG_BLOCK = 2_500;
const LINES_PER_CHUNK = 40;

export class AnswerView {
  readonly #tail = document.createElement("div");
  #text = "";
  /** How much of the text is shown, and how much of that is settled. */
  #shownTo = 0;
  #settledTo = 0;
  #listing: Listing | null = null;
  #frame: number | null = null;

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
    this.#listing = null;
    this.#tail.replaceChildren();
    this.root.replaceChildren(this.#tail);
  }

  #schedule(): void {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#showMore();
    });
  }

  #showMore(): void {
    const text = this.source.value;
    if (!text.startsWith(this.#text)) this.#clear();
    this.#text = text;
    if (this.#shownTo < text.length) {
      this.#shownTo = Math.min(text.length, this.#shownTo + SLICE);
      this.#showTail();
    }
    this.onShown();
    if (this.#shownTo < text.length) this.#schedule();
  }

  #showTail(): void {
    const tokens = blocksOf(this.#text.slice(this.#settledTo, this.#shownTo));
    const last = tokens.findLastIndex((token) => token.type !== "space");
    if (last === -1) return;
    this.#settle(tokens.slice(0, last));
    const open = settleBeginning(tokens[last]!, (beginning) => this.#settle([beginning]));
    this.#showOpen(open);
  }

  #settle(tokens: Token[]): void {
    if (tokens.length === 0) return;
    this.#settledTo += tokens.reduce((length, token) => length + token.raw.length, 0);
    const listing = this.#listing;
    const first = tokens[0]!;
    if (listing !== null && first.type === "code" && listing.show((first as Tokens.Code).text)) {
      this.root.insertBefore(listing.element, this.#tail);
      tokens = tokens.slice(1);
    }
    this.#listing = null;
    this.root.insertBefore(renderBlocks(tokens), this.#tail);
    this.#tail.replaceChildren();
  }

  #showOpen(token: Token): void {
    if (token.type !== "code") {
      this.#listing = null;
      this.#tail.replaceChildren(renderBlocks([token]));
      return;
    }
    const { text: code, lang } = token as Tokens.Code;
    const text = code.replace(/\n[`~]+$/, ""); // probably the beginning of the fence that closes it
    if (this.#listing?.show(text) !== true) {
      this.#listing = new Listing(lang ?? "");
      this.#listing.show(text);
      this.#tail.replaceChildren(this.#listing.element);
    }
  }
}

/** A code block that grows. Its lines are laid out in chunks, so that a new one does not move all the others. */
class Listing {
  readonly element: HTMLElement;
  readonly #code = document.createElement("code");
  #shown = "";
  #lines = 0;
  #chunk: HTMLElement | null = null;

  constructor(language: string) {
    const pre = document.createElement("pre");
    pre.dataset["language"] = /^[\w+#.-]+/.exec(language)?.[0] ?? "";
    pre.append(this.#code);
    this.element = frameCode(pre);
  }

  /** False if `text` does not continue what is shown. */
  show(text: string): boolean {
    if (!text.startsWith(this.#shown)) return false;
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

/** Split what is settled off a long block, as blocks of its own, and answer the rest. */
function settleBeginning(block: Token, settle: (beginning: Token) => void): Token {
  if (block.raw.length < LONG_BLOCK) return block;
  if (block.type === "list") return settleItems(block as Tokens.List, settle);
  if (block.type === "paragraph") return settleSentences(block, settle);
  return block;
}

function settleItems(list: Tokens.List, settle: (beginning: Token) => void): Token {
  const items = list.items.slice(0, -1);
  const last = list.items.at(-1);
  if (last === undefined || items.length === 0) return list;
  const raw = items.map((item) => item.raw).join("");
  if (!list.raw.startsWith(raw)) return list;
  settle({ ...list, items, raw });
  const start = list.ordered ? Number(list.start) + items.length : list.start;
  return { ...list, items: [last], start, raw: list.raw.slice(raw.length) };
}

/** Cut where nothing is open that could reach over the cut, before a letter, so that the rest is again a paragraph. */
function settleSentences(paragraph: Token, settle: (beginning: Token) => void): Token {
  const { raw } = paragraph;
  const cut = lastCut(raw, /[.!?…:]\s(?=\p{L})/gu) ?? lastCut(raw, /\s(?=\p{L})/gu);
  if (cut === null) return paragraph;
  const [beginning, rest] = [raw.slice(0, cut), raw.slice(cut)].map((text) => blocksOf(text)[0]);
  if (beginning?.type !== "paragraph" || beginning.raw.length !== cut || rest?.type !== "paragraph") return paragraph;
  settle(beginning);
  return rest;
}

function lastCut(raw: string, boundary: RegExp): number | null {
  const cuts = [...raw.slice(0, -LONG_BLOCK / 5).matchAll(boundary)].map((match) => match.index + match[0].length);
  return cuts.findLast((cut) => cut > LONG_BLOCK / 2 && isBalanced(raw.slice(0, cut))) ?? null;
}

function isBalanced(text: string): boolean {
  const count = (character: string): number => text.split(character).length - 1;
  const paired = ["`", "*", "_", "~", '"'].every((character) => count(character) % 2 === 0);
  return paired && count("[") === count("]") && count("(") === count(")") && count("<") <= count(">");
}
