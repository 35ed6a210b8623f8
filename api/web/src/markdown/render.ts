/** Markdown to DOM. What a model writes is not trusted: it becomes text, headings, lists, tables, code and links. */

import DOMPurify from "dompurify";
import { Marked, type Token } from "marked";

const marked = new Marked({ gfm: true, breaks: true });

marked.use({
  renderer: {
    // Raw HTML is shown as what it is. An image would be a request to a third party: it becomes a link.
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    // Above are the headings of the page and of the answer; how large one looks is another matter.
    heading({ tokens, depth }) {
      const level = Math.max(3, depth);
      return `<h${level} data-level="${depth}">${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    code: ({ text, lang }) => {
      const language = /^[\w+#.-]+/.exec(lang ?? "")?.[0] ?? "";
      return `<pre data-language="${escape(language)}"><code>${escape(text)}\n</code></pre>\n`;
    },
  },
});

const ALLOWED = {
  ALLOWED_TAGS: [
    ..."p br hr h1 h2 h3 h4 h5 h6 strong em del code pre blockquote ul ol li a".split(" "),
    ..."table thead tbody tr th td input".split(" "),
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align", "type", "checked", "disabled", "data-language", "data-level"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true as const,
};

/** The top-level blocks of a text. */
export function blocksOf(text: string): Token[] {
  return marked.lexer(text);
}

export function renderBlocks(tokens: Token[]): DocumentFragment {
  const fragment = DOMPurify.sanitize(marked.parser(tokens), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const input of fragment.querySelectorAll("input")) {
    if (input.type === "checkbox") input.ariaLabel = input.checked ? "done" : "to do";
    else input.remove();
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = document.createElement("div");
    frame.className = "table-frame";
    frame.tabIndex = 0;
    frame.role = "region";
    frame.ariaLabel = "Table";
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of fragment.querySelectorAll("pre")) frameCode(pre);
  // Each block runs as its own first letter says, whatever the language of the page.
  for (const block of fragment.children) if (!block.matches("figure, hr")) block.setAttribute("dir", "auto");
  return fragment;
}

/** Put a listing into a frame with its language and a button that copies it. */
export function frameCode(pre: HTMLElement): HTMLElement {
  const figure = document.createElement("figure");
  figure.className = "code";
  const caption = document.createElement("figcaption");
  const language = document.createElement("span");
  language.textContent = pre.dataset["language"] || "text";
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy-code";
  copy.textContent = "Copy";
  copy.ariaLabel = "Copy code";
  caption.append(language, copy);
  pre.tabIndex = 0;
  pre.replaceWith(figure);
  figure.append(caption, pre);
  return figure;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
