// @vitest-environment jsdom
import fc from "fast-check";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { AnswerView } from "../src/markdown/answerView";
import { blocksOf, renderBlocks } from "../src/markdown/render";
import { AnswerText } from "../src/state/answerText";

let frames: (() => void)[] = [];

beforeEach(() => {
  frames = [];
  vi.stubGlobal("requestAnimationFrame", (callback: () => void) => frames.push(callback));
  vi.stubGlobal("cancelAnimationFrame", () => (frames = []));
});

function paint(): void {
  for (let frame = frames.shift(); frame !== undefined; frame = frames.shift()) frame();
}

function whole(text: string): HTMLElement {
  const root = document.createElement("div");
  root.append(renderBlocks(blocksOf(text)));
  return root;
}

/** Show a text that arrives in pieces, painting after each. */
function streamed(pieces: string[]): HTMLElement {
  const root = document.createElement("div");
  const source = new AnswerText();
  const view = new AnswerView(root, source, () => {});
  for (const piece of pieces) {
    source.append(piece);
    paint();
  }
  view.dispose();
  return root;
}

/** What a reader sees: block by block, with its kind. */
function outline(root: HTMLElement): string[] {
  const elements = root.querySelectorAll("p, li, h3, h4, pre, blockquote, th, td, strong, em, a, :not(pre) > code");
  return [...elements].map((element) => `${element.tagName}:${(element.textContent ?? "").trim()}`);
}

const SAMPLE = `# Title

A paragraph with **bold**, *leaning* and \`code\`,
over two lines. See [a link](https://example.com/?a=1&b=2).

1. one
2. two
   - inner **x**
   - inner

Setext
======

\`\`\`python
def f(x):
    return x < 1 and "a" > 'b'

# a comment that is no heading
\`\`\`

> quoted
> twice

| a | b |
|---|--:|
| 1 | 2 |

---

The end.`;

describe("a growing text", () => {
  it("looks in the end as if it had come at once, wherever it is cut", () => {
    const expected = outline(whole(SAMPLE));
    for (let cut = 0; cut <= SAMPLE.length; cut++) {
      expect(outline(streamed([SAMPLE.slice(0, cut), SAMPLE.slice(cut)])), `cut at ${cut}`).toEqual(expected);
    }
    expect(outline(streamed([...SAMPLE]))).toEqual(expected);
  });

  it("looks so for any mixture of blocks", () => {
    const word = fc.stringMatching(/^[a-zA-Zé.,]{1,9}$/);
    const line = fc.array(word, { minLength: 1, maxLength: 30 }).map((words) => words.join(" "));
    const block = fc.oneof(
      line,
      line.map((text) => `## ${text}`),
      fc.array(line, { minLength: 1, maxLength: 40 }).map((items) => items.map((item) => `- ${item}`).join("\n")),
      fc.array(line, { minLength: 1, maxLength: 120 }).map((lines) => `\`\`\`js\n${lines.join("\n")}\n\`\`\``),
      fc.array(line, { minLength: 1, maxLength: 40 }).map((lines) => lines.join(" ")),
      fc.array(line, { minLength: 1, maxLength: 40 }).map((lines) => lines.map((text) => `> ${text}\n>\n`).join("")),
      fc
        .array(line, { minLength: 1, maxLength: 60 })
        .map((cells) => `| a | b |\n|---|---|\n${cells.map((text) => `| **x** | ${text} |`).join("\n")}`),
    );
    const texts = fc.array(block, { minLength: 1, maxLength: 6 }).map((blocks) => blocks.join("\n\n"));
    fc.assert(
      fc.property(texts, fc.integer({ min: 20, max: 900 }), (text, size) => {
        const pieces = text.match(new RegExp(`[^]{1,${size}}`, "gu")) ?? [];
        const root = streamed(pieces);
        expect(root.textContent?.replace(/\s+/g, "")).toBe(whole(text).textContent?.replace(/\s+/g, ""));
        for (const kind of ["p", "pre", "h3", "ul", "li", "blockquote", "table", "tr"])
          expect(root.querySelectorAll(kind).length, kind).toBe(whole(text).querySelectorAll(kind).length);
      }),
      { numRuns: 60 },
    );
  });

  it("is rendered again only at its end", () => {
    const root = document.createElement("div");
    const source = new AnswerText("First.\n\nSecond.\n\nThi");
    const view = new AnswerView(root, source, () => {});
    const [first, second] = root.querySelectorAll("p");
    source.append("rd.");
    paint();
    expect([...root.querySelectorAll("p")].slice(0, 2)).toEqual([first, second]);
    expect(root.textContent?.replace(/\s+/g, "")).toBe("First.Second.Third.");
    view.dispose();
  });

  it.each([
    ["a list", (n: number) => `- item number ${n}\n`, ""],
    ["a table", (n: number) => `| row | ${n} |\n`, "| a | b |\n|---|---|\n"],
    ["a quotation", (n: number) => `> line ${n} of it\n`, ""],
    ["quoted paragraphs", (n: number) => `> paragraph ${n}\n>\n`, ""],
    ["a paragraph", (n: number) => `Sentence ${n} of it. `, ""],
    ["a paragraph in which much is opened", (n: number) => `*word ${n} [x `, ""],
    ["a paragraph without spaces", () => "这是一个很长的段落没有空格。", ""],
    ["one word", () => "abcdefghij", ""],
    ["numbers", (n: number) => `${n} `, ""],
  ])("is split if it is long: %s", (_, part, head) => {
    const text = head + Array.from({ length: 2_000 }, (_, n) => part(n)).join("");
    const root = document.createElement("div");
    const source = new AnswerText();
    const view = new AnswerView(root, source, () => {});
    const observer = new MutationObserver(() => {});
    observer.observe(root, { childList: true, subtree: true });
    let longest = 0;
    for (const piece of text.match(/[^]{1,500}/gu) ?? []) {
      source.append(piece);
      paint();
      const added = observer.takeRecords().flatMap((record) => [...record.addedNodes]);
      longest = Math.max(longest, added.reduce((length, node) => length + (node.textContent ?? "").length, 0));
    }
    view.dispose();
    expect(longest).toBeLessThan(12_000);
    expect(root.textContent?.replace(/\s+/g, "")).toBe(whole(text).textContent?.replace(/\s+/g, ""));
    const outer = (element: HTMLElement): string[] => [...element.querySelectorAll("p, ul, table, thead")].map((e) => e.tagName);
    if (!text.startsWith("> line")) expect(outer(root)).toEqual(outer(whole(text)));
  });

  it("may have the line ends of Windows", () => {
    const pieces = SAMPLE.replaceAll("\n", "\r\n").match(/[^]{1,7}/g) ?? [];
    expect(outline(streamed(pieces))).toEqual(outline(whole(SAMPLE)));
  });

  it("names the language of a listing, in however many pieces it comes", () => {
    const root = streamed(["```", "py", "thon\n", "x = 1"]);
    expect(root.querySelector("figcaption span")?.textContent).toBe("python");
  });

  it("comes in slices if much of it is there at once", () => {
    const root = document.createElement("div");
    const text = "Some words. ".repeat(5_000);
    const view = new AnswerView(root, new AnswerText(text), () => {});
    expect(root.textContent!.length).toBeLessThan(text.length / 5);
    paint();
    expect(root.textContent!.replace(/\s+/g, "")).toBe(text.replace(/\s+/g, ""));
    view.dispose();
  });

  it("is gone when it is dropped", () => {
    const root = document.createElement("div");
    const source = new AnswerText("# Old\n\ntext");
    const view = new AnswerView(root, source, () => {});
    source.clear();
    paint();
    expect(root.textContent).toBe("");
    source.append("New");
    paint();
    expect(root.textContent!.trim()).toBe("New");
    view.dispose();
  });
});

describe("what a model writes", () => {
  it.each([
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<iframe src='https://evil.example'></iframe>",
    "[x](javascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "![x](https://evil.example/pixel.png)",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>body{display:none}</style>",
    "<div style='position:fixed;inset:0'>x</div>",
    "```<img src=x onerror=alert(1)>\nx\n```",
    '[x](https://e.example "\\" onclick=alert(1) ")',
  ])("is harmless: %s", (text) => {
    const root = whole(text);
    expect(root.querySelectorAll("img, script, iframe, style, form, object, embed, div[style]")).toHaveLength(0);
    for (const element of root.querySelectorAll("*")) {
      expect([...element.attributes].filter(({ name }) => /^(on|style|src)/.test(name))).toEqual([]);
      expect(element.getAttribute("href") ?? "https:").toMatch(/^https?:/);
    }
  });

  it("shows HTML as text", () => {
    expect(whole("Use <b>tags</b>.").textContent).toContain("Use <b>tags</b>.");
  });

  it("opens links elsewhere, and tells them nothing", () => {
    const link = whole("[x](https://example.com)").querySelector("a")!;
    expect([link.target, link.rel]).toEqual(["_blank", "noopener noreferrer nofollow"]);
  });
});
