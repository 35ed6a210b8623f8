import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Chat } from "../api";
import { ChatView } from "./ChatView";
import { useApp } from "./context";
import { DeleteDialog, HelpDialog } from "./dialogs";
import { focusComposer, isComposing } from "./focus";
import { LoginView } from "./LoginView";
import { Sidebar } from "./Sidebar";

export function Page() {
  const app = useApp();
  const isListOpen = useSignal(false);
  const isHelpOpen = useSignal(false);
  const toDelete = useSignal<Chat | null>(null);

  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent): void => {
      if (event.defaultPrevented || isComposing(event)) return;
      const isCommand = event.ctrlKey || event.metaKey;
      if (isCommand && event.key === "k") app.newChat();
      else if (isCommand && event.key === "/") isHelpOpen.value = true;
      else if (event.key === "/" && !isTyping(event.target)) focusComposer();
      else if (event.key === "Escape" && isListOpen.value) isListOpen.value = false;
      else if (event.key === "Escape" && document.querySelector("dialog[open]") === null)
        void app.conversation.value?.stop();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [app]);

  // A file that is dropped beside the chat would be opened instead of the page.
  useEffect(() => {
    const refuse = (event: DragEvent): void => {
      if (event.defaultPrevented || event.dataTransfer?.types.includes("Files") !== true) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none";
    };
    document.addEventListener("dragover", refuse);
    document.addEventListener("drop", refuse);
    return () => {
      document.removeEventListener("dragover", refuse);
      document.removeEventListener("drop", refuse);
    };
  }, []);

  // The list lies over the chat only where there is no room beside it.
  useEffect(() => {
    const narrow = matchMedia("(max-width: 50rem)");
    const onChange = (): void => {
      if (!narrow.matches) isListOpen.value = false;
    };
    narrow.addEventListener("change", onChange);
    return () => narrow.removeEventListener("change", onChange);
  }, []);

  if (!app.session.isOpen.value) return <LoginView />;
  const conversation = app.conversation.value;
  return (
    <div class="page">
      <Sidebar
        isOpen={isListOpen.value}
        onClose={() => (isListOpen.value = false)}
        onDelete={(chat) => (toDelete.value = chat)}
        onHelp={() => (isHelpOpen.value = true)}
      />
      {isListOpen.value && <div class="backdrop" onClick={() => (isListOpen.value = false)} />}
      {conversation !== null && (
        <ChatView
          conversation={conversation}
          isCovered={isListOpen.value}
          onOpenList={() => (isListOpen.value = true)}
          onDelete={(chat) => (toDelete.value = chat)}
        />
      )}
      {toDelete.value !== null && (
        <DeleteDialog
          chat={toDelete.value}
          onDone={(isConfirmed) => {
            if (isConfirmed && toDelete.value !== null) void app.deleteChat(toDelete.value);
            toDelete.value = null;
          }}
        />
      )}
      {isHelpOpen.value && <HelpDialog onClose={() => (isHelpOpen.value = false)} />}
    </div>
  );
}

function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]");
}
