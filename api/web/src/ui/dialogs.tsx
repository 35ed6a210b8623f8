import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import type { Chat } from "../api";

const SHORTCUTS = [
  ["Enter", "Send"],
  ["Shift + Enter", "New line"],
  ["Escape", "Stop the answer"],
  ["↑ in an empty field", "Edit the last question"],
  ["Ctrl or ⌘ + K", "New chat"],
  ["/", "Go to the message field"],
  ["↑ ↓, F2, Del", "In the list of chats: move, rename, delete"],
] as const;

function Dialog({ title, onClose, children }: { title: string; onClose(): void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const opener = document.activeElement;
    dialog.current?.showModal();
    return () => {
      dialog.current?.close(); // one that is only taken away leaves the focus nowhere
      if (opener instanceof HTMLElement) opener.focus();
    };
  }, []);
  // The event comes later than the close: one of a dialog that is gone must not close the next one.
  const onClosed = (event: Event): void => {
    if ((event.currentTarget as Element).isConnected) onClose();
  };
  return (
    <dialog ref={dialog} aria-labelledby="dialog-title" onClose={onClosed}>
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

export function DeleteDialog({ chat, onDone }: { chat: Chat; onDone(isConfirmed: boolean): void }) {
  return (
    <Dialog title="Delete this chat?" onClose={() => onDone(false)}>
      <p>
        “{chat.title ?? "New chat"}” and its files will be gone
        {chat.running_request_id === undefined ? "." : ", and the answer that is being written is stopped."}
      </p>
      <div class="dialog-buttons">
        <button type="button" class="button" onClick={() => onDone(false)}>
          Keep it
        </button>
        <button type="button" class="button danger" onClick={() => onDone(true)}>
          Delete
        </button>
      </div>
    </Dialog>
  );
}

export function HelpDialog({ onClose }: { onClose(): void }) {
  return (
    <Dialog title="Keyboard" onClose={onClose}>
      <dl class="shortcuts">
        {SHORTCUTS.map(([keys, meaning]) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{meaning}</dd>
          </div>
        ))}
      </dl>
      <div class="dialog-buttons">
        <button type="button" class="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
