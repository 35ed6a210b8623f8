import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Chat } from "../api";
import { useApp } from "./context";
import { focusIfLost, isComposing, useFocusHandover } from "./focus";
import { Icon } from "./icons";
import { QuotaPanel } from "./QuotaPanel";
import { nextTheme, theme } from "./theme";
import { dayOf } from "./time";

interface SidebarProps {
  isOpen: boolean;
  onClose(): void;
  onDelete(chat: Chat): void;
  onHelp(): void;
}

const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" } as const;
const THEME_NAMES = { auto: "like the system", light: "light", dark: "dark" } as const;

export function Sidebar({ isOpen, onClose, onDelete, onHelp }: SidebarProps) {
  const app = useApp();
  const closer = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (!isOpen) return;
    closer.current?.focus();
    return () => document.querySelector<HTMLElement>("#open-list")?.focus();
  }, [isOpen]);
  return (
    <nav class="sidebar" aria-label="Chats" data-open={isOpen}>
      <div class="sidebar-head">
        <span class="brand">
          <Logo /> mini-chat
        </span>
        <button ref={closer} type="button" class="icon-button only-narrow" aria-label="Close the list of chats" onClick={onClose}>
          <Icon name="close" />
        </button>
      </div>
      <button
        type="button"
        class="new-chat"
        onClick={() => {
          app.newChat();
          onClose();
        }}
      >
        <Icon name="plus" /> New chat
      </button>
      <ChatItems onChosen={onClose} onDelete={onDelete} />
      <QuotaPanel />
      <div class="sidebar-foot">
        <button
          type="button"
          class="icon-button"
          onClick={nextTheme}
          aria-label={`Colours: ${THEME_NAMES[theme.value]}. Change`}
          title={`Colours: ${THEME_NAMES[theme.value]}`}
        >
          <Icon name={THEME_ICONS[theme.value]} />
        </button>
        <button type="button" class="icon-button" onClick={onHelp} aria-label="Keyboard shortcuts" title="Keyboard shortcuts">
          <Icon name="keyboard" />
        </button>
        {app.session.hasToken && (
          <button
            type="button"
            class="icon-button"
            onClick={() => app.signOut()}
            aria-label="Forget the token"
            title="Forget the token"
          >
            <Icon name="leave" />
          </button>
        )}
      </div>
    </nav>
  );
}

export function Logo() {
  return (
    <svg class="logo" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="9" />
      <path d="M8 12a3 3 0 0 1 3-3h10a3 3 0 0 1 3 3v6a3 3 0 0 1-3 3h-5l-5 4v-4a3 3 0 0 1-3-3z" />
    </svg>
  );
}

function ChatItems({ onChosen, onDelete }: { onChosen(): void; onDelete(chat: Chat): void }) {
  const { chats } = useApp();
  const scroller = useRef<HTMLDivElement>(null);
  const end = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const observer = new IntersectionObserver(
      ([entry]) => {
        if (entry?.isIntersecting) void chats.loadMore();
      },
      { root: scroller.current, rootMargin: "300px" },
    );
    if (end.current !== null) observer.observe(end.current);
    return () => observer.disconnect();
  }, [chats.chats.value.length, chats.hasMore.value]);

  const groups = Map.groupBy(chats.chats.value, (chat) => dayOf(chat.updated_at));
  return (
    <div class="chat-list" ref={scroller} tabIndex={-1}>
      {chats.isLoaded.value && chats.chats.value.length === 0 && (
        <p class="quiet-note">Your chats will be listed here.</p>
      )}
      {[...groups].map(([day, items]) => (
        <section key={day}>
          <h2>{day}</h2>
          <ul>
            {items.map((chat) => (
              <ChatItem key={chat.id} chat={chat} onChosen={onChosen} onDelete={onDelete} />
            ))}
          </ul>
        </section>
      ))}
      {chats.hasMore.value && <div ref={end} class="list-end" aria-hidden="true" />}
    </div>
  );
}

function ChatItem({ chat, onChosen, onDelete }: { chat: Chat; onChosen(): void; onDelete(chat: Chat): void }) {
  const app = useApp();
  const isRenaming = useSignal(false);
  const root = useFocusHandover<HTMLLIElement>();
  const title = chat.title ?? "New chat";
  if (isRenaming.value) {
    return (
      <li ref={root}>
        <TitleField
          title={title}
          onDone={(changed) => {
            isRenaming.value = false;
            focusIfLost(() => root.current?.querySelector("a"));
            if (changed !== null) void app.renameChat(chat, changed);
          }}
        />
      </li>
    );
  }
  const isCurrent = chat.id === app.selectedId.value;
  return (
    <li class="chat-item" ref={root} data-current={isCurrent}>
      <a
        href={`#/chats/${chat.id}`}
        aria-current={isCurrent ? "page" : undefined}
        title={title}
        onClick={onChosen}
        onKeyDown={(event) => {
          if (event.key === "F2") isRenaming.value = true;
          else if (event.key === "Delete") onDelete(chat);
          else if (event.key === "ArrowDown" || event.key === "ArrowUp") moveFocus(event);
        }}
      >
        <span class="chat-title" dir="auto">{title}</span>
        {chat.running_request_id !== undefined && <span class="running-dot" role="img" aria-label="an answer is being written" />}
      </a>
      <span class="chat-actions">
        <button type="button" class="icon-button" aria-label={`Rename ${title}`} onClick={() => (isRenaming.value = true)}>
          <Icon name="pencil" />
        </button>
        <button type="button" class="icon-button" aria-label={`Delete ${title}`} onClick={() => onDelete(chat)}>
          <Icon name="trash" />
        </button>
      </span>
    </li>
  );
}

/** Enter and leaving the field keep the text, Escape does not. */
export function TitleField({ title, onDone }: { title: string; onDone(changed: string | null): void }) {
  const field = useRef<HTMLInputElement>(null);
  const isDone = useRef(false);
  useEffect(() => field.current?.select(), []);
  const finish = (text: string | null): void => {
    if (isDone.current) return;
    isDone.current = true;
    const changed = text?.trim() ?? "";
    onDone(changed === "" || changed === title ? null : changed);
  };
  return (
    <input
      ref={field}
      class="title-field"
      dir="auto"
      aria-label="Title of the chat"
      defaultValue={title}
      maxLength={255}
      onBlur={(event) => finish(event.currentTarget.value)}
      onKeyDown={(event) => {
        if (isComposing(event)) return;
        if (event.key === "Enter") finish(event.currentTarget.value);
        else if (event.key === "Escape") finish(null);
        event.stopPropagation();
      }}
    />
  );
}

function moveFocus(event: KeyboardEvent): void {
  event.preventDefault();
  const links = [...document.querySelectorAll<HTMLElement>(".chat-item a")];
  const index = links.indexOf(event.currentTarget as HTMLElement);
  links[index + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
}
