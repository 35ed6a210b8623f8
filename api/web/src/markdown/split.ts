/**
 * Splits a block that has become long: its beginning will not change any more, whatever comes, and is rendered once.
 *
 * A list is cut between items, a table between rows, a quotation between its blocks or lines, a paragraph where nothing is
 * open that could reach over the cut.
 */

import type { Token, Tokens } from "marked";
import { blocksOf } from "./render";

const LONG = 2_500;
/** Nothing that is opened in a paragraph is believed to be closed after so many characters. */
const ENDLESS = 4 * LONG;

export interface Split {
  /** Null if the block is short, or cannot be cut. */
  beginning: Token | null;
  rest: Token;
  /** What the text after `beginning` is to be read behind, so that it is understood as a part of the same block. */
  context: string;
}

export function split(block: Token): Split {
  const whole: Split = { beginning: null, rest: block, context: "" };
  if (block.raw.length < LONG) return whole;
  switch (block.type) {
    case "list":
      return splitList(block as Tokens.List) ?? whole;
    case "table":
      return splitTable(block as Tokens.Table) ?? whole;
    case "blockquote":
      return splitQuote(block as Tokens.Blockquote) ?? whole;
    case "paragraph":
      return splitParagraph(block) ?? whole;
    default:
      return whole;
  }
}

function splitList(list: Tokens.List): Split | null {
  const items = list.items.slice(0, -1);
  const last = list.items.at(-1);
  if (last === undefined || items.length === 0) return null;
  const raw = items.map((item) => item.raw).join("");
  if (!list.raw.startsWith(raw)) return null;
  const start = list.ordered ? Number(list.start) + items.length : list.start;
  const rest = { ...list, items: [last], start, raw: list.raw.slice(raw.length) };
  return { beginning: { ...list, items, raw }, rest, context: "" };
}

/** `raw` may lack the head and the line below it, if the table was read behind them. */
function splitTable(table: Tokens.Table): Split | null {
  const { rows } = table;
  const lines = table.raw.match(/[^\n]*\n|[^\n]+/g) ?? [];
  const headLines = lines.length - rows.length;
  if (rows.length < 2 || (headLines !== 0 && headLines !== 2)) return null;
  const raw = lines.slice(0, -1).join("");
  const beginning = { ...table, rows: rows.slice(0, -1), raw };
  const rest = { ...table, rows: rows.slice(-1), raw: lines.at(-1)! };
  return { beginning, rest, context: lines.slice(0, headLines).join("") };
}

function splitQuote(quote: Tokens.Blockquote): Split | null {
  const lines = quote.raw.match(/[^\n]*\n|[^\n]+/g) ?? [];
  const last = quote.tokens.findLastIndex((token) => token.type !== "space");
  // Each line of the quotation is one of what is in it.
  const linesBefore = quote.tokens.slice(0, last).reduce((count, { raw }) => count + raw.split("\n").length - 1, 0);
  const isLongParagraph = quote.tokens[last]?.type === "paragraph" && quote.tokens[last].raw.length > LONG;
  return cutQuote(lines, isLongParagraph ? lines.length - 2 : linesBefore);
}

function cutQuote(lines: string[], at: number): Split | null {
  const parts = [lines.slice(0, at).join(""), lines.slice(at).join("")];
  const [beginning, rest] = parts.map((text) => {
    const tokens = blocksOf(text);
    return tokens[0]?.type === "blockquote" && tokens[0].raw.trimEnd() === text.trimEnd() ? tokens[0] : null;
  });
  if (beginning == null || rest == null) return null;
  return { beginning: { ...beginning, raw: parts[0]! }, rest, context: "" };
}

/** Before a letter or a number that begins no list, so that the rest is again a paragraph. */
const CUTS = [/[.!?…:]\s(?=\p{L})/gu, /[。！？；](?=\p{L})/gu, /\s(?=\p{L}|\p{N}+\s)/gu, /(?<=[\p{L}\p{N}])(?=\p{L})/gu];

function splitParagraph(paragraph: Token): Split | null {
  const { raw } = paragraph;
  for (const mayReachOver of raw.length < ENDLESS ? [false] : [false, true]) {
    for (const boundary of CUTS) {
      const cut = lastCut(raw, boundary, mayReachOver);
      if (cut === null) continue;
      const [beginning, rest] = [raw.slice(0, cut), raw.slice(cut)].map((text) => blocksOf(text)[0]);
      if (beginning?.type === "paragraph" && beginning.raw.length === cut && rest?.type === "paragraph")
        return { beginning, rest, context: "" };
    }
  }
  return null;
}

function lastCut(raw: string, boundary: RegExp, mayReachOver: boolean): number | null {
  const open = new OpenMarks();
  let found: number | null = null;
  let last = 0;
  for (const match of raw.slice(0, -LONG / 5).matchAll(boundary)) {
    const cut = match.index + match[0].length;
    open.read(raw.slice(last, cut));
    last = cut;
    if (cut > LONG / 2 && (mayReachOver || open.none)) found = cut;
  }
  return found;
}

/** Which marks have been opened and not closed. */
class OpenMarks {
  readonly #paired = new Set<string>();
  #brackets = 0;
  #parentheses = 0;
  #angles = 0;

  get none(): boolean {
    return this.#paired.size === 0 && this.#brackets === 0 && this.#parentheses === 0 && this.#angles <= 0;
  }

  read(text: string): void {
    for (const [mark] of text.matchAll(/[`*_~"[\]()<>]/g)) {
      if (mark === "[" || mark === "]") this.#brackets += mark === "[" ? 1 : -1;
      else if (mark === "(" || mark === ")") this.#parentheses += mark === "(" ? 1 : -1;
      else if (mark === "<" || mark === ">") this.#angles += mark === "<" ? 1 : -1;
      else if (!this.#paired.delete(mark)) this.#paired.add(mark);
    }
  }
}
