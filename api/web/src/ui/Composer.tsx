import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Conversation } from "../state/conversation";
import type { Upload } from "../state/uploads";
import { useApp } from "./context";
import { focusComposer, isComposing, useFocusHandover } from "./focus";
import { Icon } from "./icons";

/** What the API takes: the types of its list, and the endings by which it knows those that browsers do not. */
const ACCEPTED = [
  "image/png,image/jpeg,image/webp,image/gif",
  ".pdf,.txt,.md,.markdown,.html,.htm,.docx,.pptx,.xlsx,.csv,.json",
  ".py,.java,.js,.mjs,.ts,.mts,.go,.cs,.rb,.rs,.sql",
].join(",");

/** More than fits into the field at its highest. */
const LONG_DRAFT = 10_000;

export function Composer({ conversation }: { conversation: Conversation }) {
  const app = useApp();
  const field = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const draft = conversation.draft.value;
  const isLong = draft.length > LONG_DRAFT;
  const running = conversation.running.value;
  const isSendable = draft.trim() !== "" && !conversation.uploads.isPending.value;
  const send = (): void => void conversation.send();

  // As high as its text, where the style sheet cannot say so.
  useLayoutEffect(() => {
    if (isLong || CSS.supports("field-sizing", "content")) return;
    const element = field.current!;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight}px`;
  }, [draft, conversation]);

  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) field.current?.focus();
  }, [conversation]);

  return (
    <div class="composer-frame">
      <Notice conversation={conversation} />
      <form
        class="composer"
        aria-label="Message"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        <UploadItems conversation={conversation} />
        <textarea
          id="composer"
          ref={field}
          dir="auto"
          rows={1}
          data-long={isLong}
          value={draft}
          placeholder="Ask anything"
          aria-label="Message"
          enterkeyhint="send"
          onInput={(event) => (conversation.draft.value = event.currentTarget.value)}
          onPaste={(event) => {
            const files = event.clipboardData?.files;
            if (files === undefined || files.length === 0 || isText(event.clipboardData!.types)) return;
            event.preventDefault();
            void conversation.attachFiles(files);
          }}
          onKeyDown={(event) => {
            if (isComposing(event)) return;
            if (event.key === "Enter" && !event.shiftKey) send();
            else if (event.key === "ArrowUp" && draft === "" && running === null)
              conversation.editing.value = conversation.latest.value;
            else return;
            event.preventDefault();
          }}
        />
        <div class="composer-bar">
          <input
            ref={picker}
            type="file"
            class="visually-hidden"
            tabIndex={-1}
            aria-label="Files to attach"
            multiple
            accept={ACCEPTED}
            onChange={(event) => {
              void conversation.attachFiles(event.currentTarget.files ?? []);
              event.currentTarget.value = "";
            }}
          />
          <button
            type="button"
            class="icon-button"
            aria-label="Attach files"
            title="Attach files"
            onClick={() => picker.current?.click()}
          >
            <Icon name="clip" />
          </button>
          <button
            type="button"
            class="toggle"
            aria-pressed={conversation.isWebSearchOn.value}
            onClick={() => (conversation.isWebSearchOn.value = !conversation.isWebSearchOn.value)}
          >
            <Icon name="globe" /> Web search
          </button>
          <span class="spring" />
          {conversation.chat.value === null && app.models.value.length > 0 && <ModelChoice conversation={conversation} />}
          {running === null ? (
            <button type="submit" class="send" aria-label="Send" title="Send" disabled={!isSendable}>
              <Icon name="send" />
            </button>
          ) : (
            <button
              type="button"
              class="send stop"
              aria-label="Stop"
              title="Stop"
              disabled={running.isStopping.value}
              onClick={(event) => {
                if (event.currentTarget.matches(":focus-visible")) focusComposer(); // the button will be another
                void conversation.stop();
              }}
            >
              <Icon name="stop" />
            </button>
          )}
        </div>
      </form>
    </div>
  );
}

/** Word processors put a picture of a text beside it. The name of a copied file, or the address of a picture, is no text. */
function isText(types: readonly string[]): boolean {
  return types.includes("text/html") && types.includes("text/plain");
}

function ModelChoice({ conversation }: { conversation: Conversation }) {
  const { models } = useApp();
  return (
    <label class="model-choice">
      <span class="visually-hidden">Model</span>
      <select
        value={conversation.chosenModel.value ?? ""}
        onChange={(event) => (conversation.chosenModel.value = event.currentTarget.value || null)}
      >
        <option value="">Default model</option>
        {models.value.map((model) => (
          <option key={model.model_id} value={model.model_id} title={model.description}>
            {model.display_name}
            {model.multiplier_display !== "" && ` · ${model.multiplier_display}`}
          </option>
        ))}
      </select>
    </label>
  );
}

function Notice({ conversation }: { conversation: Conversation }) {
  const notice = conversation.notice.value;
  if (notice === null) return null;
  return (
    <div class="notice" role="alert" data-code={notice.code}>
      <span>{notice.text}</span>
      <button
        type="button"
        class="icon-button small"
        aria-label="Dismiss"
        onClick={() => (conversation.notice.value = null)}
      >
        <Icon name="close" />
      </button>
    </div>
  );
}

function UploadItems({ conversation }: { conversation: Conversation }) {
  const items = conversation.uploads.items.value;
  if (items.length === 0) return null;
  return (
    <ul class="uploads" aria-label="Files to be sent">
      {items.map((upload) => (
        <UploadItem key={upload.file} upload={upload} onRemove={() => void conversation.removeUpload(upload)} />
      ))}
    </ul>
  );
}

function UploadItem({ upload, onRemove }: { upload: Upload; onRemove(): void }) {
  const { name } = upload.file;
  const error = upload.error.value;
  const thumbnail = upload.attachment.value?.img_thumbnail;
  const share = Math.round(upload.progress.value * 100);
  const image = thumbnail === undefined ? upload.preview : `data:image/webp;base64,${thumbnail.data_base64}`;
  const root = useFocusHandover<HTMLLIElement>();
  return (
    <li class="upload" ref={root} data-state={error !== null ? "failed" : upload.isReady.value ? "ready" : "pending"}>
      {image === null ? <Icon name="file" /> : <img src={image} alt="" />}
      <span class="upload-text">
        <span class="upload-name" dir="auto">
          {name}
        </span>
        {error !== null ? (
          <span class="upload-note" role="alert">
            {error}
          </span>
        ) : upload.isReady.value ? (
          <span class="upload-note">Ready</span>
        ) : share < 100 ? (
          <progress max={100} value={share} aria-label={`Uploading ${name}`} />
        ) : (
          <span class="upload-note">Being prepared…</span>
        )}
      </span>
      <button type="button" class="icon-button small" aria-label={`Remove ${name}`} onClick={onRemove}>
        <Icon name="close" />
      </button>
    </li>
  );
}
