import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { MessageAttachment, Reaction } from "../api";
import { AnswerView } from "../markdown/answerView";
import type { Conversation } from "../state/conversation";
import type { Status, ToolActivity, Turn } from "../state/turn";
import type { Citation, DowngradeReason } from "../stream/events";
import { copyText } from "./clipboard";
import { useApp } from "./context";
import { isComposing, useFocusHandover } from "./focus";
import { Icon, type IconName } from "./icons";

interface TurnProps {
  turn: Turn;
  conversation: Conversation;
  isLatest: boolean;
  /** The turn takes more room than before. */
  onGrown(): void;
}

export function TurnView(props: TurnProps) {
  const { turn, conversation, isLatest, onGrown } = props;
  const root = useFocusHandover<HTMLElement>();
  const isEditing = conversation.editing.value === turn;
  // What comes below the text, or goes, changes the height as well.
  useLayoutEffect(onGrown);
  return (
    <section class="turn" ref={root} data-request-id={turn.requestId} data-status={turn.status.value}>
      <div class="question" data-editing={isEditing}>
        <h2 class="visually-hidden">You asked</h2>
        <Attachments items={turn.question.attachments} />
        {isEditing ? (
          <QuestionField turn={turn} conversation={conversation} />
        ) : (
          <>
            <div class="bubble" dir="auto">{turn.question.content}</div>
            <div class="actions">
              {isLatest && !turn.isLive.value && (
                <Action icon="pencil" label="Edit the question" onClick={() => (conversation.editing.value = turn)} />
              )}
              <CopyAction label="Copy the question" text={() => turn.question.content} />
            </div>
          </>
        )}
      </div>
      <article class="answer" aria-busy={turn.isLive.value}>
        <h2 class="visually-hidden">Answer</h2>
        <Downgrade turn={turn} />
        <Reasoning turn={turn} onGrown={onGrown} />
        <Tools items={turn.tools.value} />
        <AnswerText turn={turn} onGrown={onGrown} />
        <Sources items={turn.citations.value} />
        <Foot turn={turn} conversation={conversation} isLatest={isLatest} />
      </article>
    </section>
  );
}

function AnswerText({ turn, onGrown }: { turn: Turn; onGrown(): void }) {
  const root = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const view = new AnswerView(root.current!, turn.text, onGrown);
    return () => view.dispose();
  }, [turn]);
  return (
    <div
      class="prose"
      ref={root}
      data-writing={turn.status.value === "writing"}
      onClick={(event) => {
        const button = (event.target as HTMLElement).closest<HTMLElement>(".copy-code");
        if (button !== null) void copyCode(button);
      }}
    />
  );
}

async function copyCode(button: HTMLElement): Promise<void> {
  const code = button.closest("figure")?.querySelector("code")?.textContent ?? "";
  await copyText(code);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1_500);
}

function QuestionField({ turn, conversation }: { turn: Turn; conversation: Conversation }) {
  const form = useFocusHandover<HTMLFormElement>();
  const field = useRef<HTMLTextAreaElement>(null);
  const text = useSignal(turn.question.content);
  useEffect(() => {
    const length = field.current?.value.length ?? 0;
    field.current?.focus();
    field.current?.setSelectionRange(length, length);
  }, []);
  const cancel = (): void => {
    conversation.editing.value = null;
  };
  const save = (): void => {
    if (text.value.trim() !== "") void conversation.edit(turn, text.value);
  };
  return (
    <form
      class="edit"
      ref={form}
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <textarea
        ref={field}
        aria-label="Your question"
        dir="auto"
        rows={3}
        value={text.value}
        onInput={(event) => (text.value = event.currentTarget.value)}
        onKeyDown={(event) => {
          if (isComposing(event)) return;
          if (event.key === "Escape") cancel();
          else if (event.key === "Enter" && !event.shiftKey) save();
          else return;
          event.preventDefault();
        }}
      />
      <div class="edit-buttons">
        <button type="button" class="button" onClick={cancel}>
          Cancel
        </button>
        <button type="submit" class="button primary" disabled={text.value.trim() === ""}>
          Ask again
        </button>
      </div>
    </form>
  );
}

export function Attachments({ items }: { items: MessageAttachment[] }) {
  if (items.length === 0) return null;
  return (
    <ul class="attachments" aria-label="Attachments">
      {items.map(({ attachment_id, kind, filename, img_thumbnail: image }) => (
        <li key={attachment_id} class="attachment" data-kind={kind}>
          {image === undefined ? (
            <Icon name="file" />
          ) : (
            <img
              src={`data:${image.content_type};base64,${image.data_base64}`}
              width={image.width}
              height={image.height}
              alt=""
            />
          )}
          <span dir="auto" title={filename}>
            {filename}
          </span>
        </li>
      ))}
    </ul>
  );
}

const REASONS: Record<DowngradeReason, string> = {
  premium_quota_exhausted: "the premium credits are used up",
  force_standard_tier: "only standard models answer at the moment",
  disable_premium_tier: "premium models are switched off at the moment",
  model_disabled: "that model is no longer offered",
};

function Downgrade({ turn }: { turn: Turn }) {
  const app = useApp();
  const done = turn.done.value;
  if (done?.quota_decision !== "downgrade") return null;
  const reason = done.downgrade_reason === undefined ? "" : `: ${REASONS[done.downgrade_reason]}`;
  return (
    <p class="downgrade">
      Answered by {app.modelName(done.effective_model)} instead of {app.modelName(done.selected_model)}
      {reason}.
    </p>
  );
}

function Reasoning({ turn, onGrown }: { turn: Turn; onGrown(): void }) {
  const root = useRef<HTMLDivElement>(null);
  const isShown = turn.hasReasoning.value;
  useEffect(() => {
    if (!isShown) return;
    let frame: number | null = null;
    let shown = "";
    const show = (): void => {
      frame = null;
      const text = turn.reasoning.value;
      if (!text.startsWith(shown)) {
        shown = "";
        root.current?.replaceChildren();
      }
      root.current?.append(text.slice(shown.length));
      shown = text;
      onGrown();
    };
    const unsubscribe = turn.reasoning.subscribe(() => (frame ??= requestAnimationFrame(show)));
    show();
    return () => {
      unsubscribe();
      if (frame !== null) cancelAnimationFrame(frame);
    };
  }, [turn, isShown]);
  if (!isShown) return null;
  return (
    <details class="reasoning">
      <summary>Thinking</summary>
      <div ref={root} dir="auto" />
    </details>
  );
}

const TOOLS: Record<ToolActivity["name"], { icon: IconName; running: string; done: string }> = {
  web_search: { icon: "globe", running: "Searching the web…", done: "Searched the web" },
  file_search: { icon: "book", running: "Searching your files…", done: "Searched your files" },
  code_interpreter: { icon: "code", running: "Running code…", done: "Ran code" },
};

function Tools({ items }: { items: ToolActivity[] }) {
  if (items.length === 0) return null;
  return (
    <ul class="tools" aria-label="Tools used">
      {items.map(({ name, isDone, details }, index) => {
        const tool = TOOLS[name];
        const found = details.files_searched;
        return (
          <li key={index} data-done={isDone}>
            <Icon name={tool.icon} />
            <span>
              {isDone ? tool.done : tool.running}
              {found !== undefined && ` · ${found} ${found === 1 ? "result" : "results"}`}
            </span>
            {details.output !== undefined && details.output !== "" && (
              <details>
                <summary>Output</summary>
                <pre tabIndex={0}>{details.output}</pre>
              </details>
            )}
          </li>
        );
      })}
    </ul>
  );
}

function Sources({ items }: { items: Citation[] }) {
  if (items.length === 0) return null;
  return (
    <section class="sources" aria-label="Sources">
      <p class="label">Sources</p>
      <ol>
        {items.map((item, index) => (
          <li key={index}>
            <Icon name={item.source === "web" ? "globe" : "file"} />
            <div>
              {isWebAddress(item.url) ? (
                <a href={item.url} dir="auto" target="_blank" rel="noopener noreferrer nofollow">
                  {item.title}
                </a>
              ) : (
                <span class="source-title" dir="auto">{item.title}</span>
              )}
              {item.snippet !== "" && <p dir="auto">{item.snippet}</p>}
            </div>
          </li>
        ))}
      </ol>
    </section>
  );
}

function isWebAddress(url: string | undefined): url is string {
  return url !== undefined && /^https?:\/\//i.test(url);
}

const WORDS: Partial<Record<Status, string>> = {
  connecting: "Connecting…",
  thinking: "Thinking…",
  reconnecting: "Reconnecting…",
  resumed: "Resumed",
  restarted: "Restarted",
  queued: "Waiting: other tabs use the connections",
  stopping: "Stopping…",
  stopped: "Stopped",
  interrupted: "Interrupted",
};

function Foot({ turn, conversation, isLatest }: Omit<TurnProps, "onGrown">) {
  const app = useApp();
  const status = turn.status.value;
  const word = WORDS[status];
  const failure = turn.failure.value;
  const isLive = turn.isLive.value;
  const usage = turn.done.value?.usage;
  return (
    <footer class="foot">
      {word !== undefined && (
        <span class="status" data-status={status}>
          <span class="status-dot" aria-hidden="true" />
          {word}
          {status === "interrupted" && failure !== null && <span class="failure">: {failure.message}</span>}
        </span>
      )}
      {!isLive && (
        <div class="actions">
          {turn.hasText.value && <CopyAction label="Copy the answer" text={() => turn.text.value} />}
          {turn.hasText.value && turn.phase.value !== "interrupted" && (
            <>
              <ReactionAction turn={turn} conversation={conversation} value="like" label="Good answer" />
              <ReactionAction turn={turn} conversation={conversation} value="dislike" label="Bad answer" />
            </>
          )}
          {isLatest && (
            <>
              <Action icon="retry" label="Answer again" onClick={() => void conversation.retry(turn)} />
              <Action icon="trash" label="Delete the question and its answer" onClick={() => void conversation.deleteLast()} />
            </>
          )}
          {!turn.hasDetails.value && (
            <Action icon="book" label="Show the sources" onClick={() => void conversation.loadDetails(turn)} />
          )}
          {turn.model.value !== null && (
            <span class="by" title={usage ? `${usage.input_tokens} tokens read, ${usage.output_tokens} written` : undefined}>
              {app.modelName(turn.model.value)}
            </span>
          )}
        </div>
      )}
    </footer>
  );
}

function ReactionAction(props: { turn: Turn; conversation: Conversation; value: Reaction; label: string }) {
  const { turn, conversation, value, label } = props;
  const isSet = turn.reaction.value === value;
  return (
    <Action
      icon={value}
      label={label}
      isPressed={isSet}
      onClick={() => void conversation.react(turn, isSet ? null : value)}
    />
  );
}

function CopyAction({ label, text }: { label: string; text(): string }) {
  const isCopied = useSignal(false);
  return (
    <Action
      icon={isCopied.value ? "check" : "copy"}
      label={isCopied.value ? "Copied" : label}
      onClick={async () => {
        await copyText(text());
        isCopied.value = true;
        setTimeout(() => (isCopied.value = false), 1_500);
      }}
    />
  );
}

interface ActionProps {
  icon: IconName;
  label: string;
  isPressed?: boolean;
  onClick(): void;
}

function Action({ icon, label, isPressed, onClick }: ActionProps) {
  return (
    <button type="button" class="icon-button small" aria-label={label} title={label} aria-pressed={isPressed} onClick={onClick}>
      <Icon name={icon} />
    </button>
  );
}
