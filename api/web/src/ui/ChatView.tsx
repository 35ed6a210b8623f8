import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Chat } from "../api";
import type { Conversation } from "../state/conversation";
import { Announcer } from "./Announcer";
import { Composer } from "./Composer";
import { useApp } from "./context";
import { focusComposer, focusIfLost } from "./focus";
import { Icon } from "./icons";
import { Follower } from "./follower";
import { TitleField } from "./Sidebar";
import { TurnView } from "./TurnView";

interface ChatViewProps {
  conversation: Conversation;
  /** Something lies over it. */
  isCovered: boolean;
  onOpenList(): void;
  onDelete(chat: Chat): void;
}

export function ChatView({ conversation, isCovered, onOpenList, onDelete }: ChatViewProps) {
  const app = useApp();
  const isDragging = useSignal(false);
  const chat = conversation.chat.value;

  useEffect(() => {
    document.title = chat?.title === undefined ? "mini-chat" : `${chat.title} – mini-chat`;
  }, [chat?.title]);

  return (
    <main
      class="chat"
      inert={isCovered}
      data-dragging={isDragging.value}
      onDragOver={(event) => {
        if (event.dataTransfer?.types.includes("Files") !== true) return;
        event.preventDefault();
        isDragging.value = true;
      }}
      onDragLeave={(event) => {
        if (event.relatedTarget === null || !event.currentTarget.contains(event.relatedTarget as Node))
          isDragging.value = false;
      }}
      onDrop={(event) => {
        isDragging.value = false;
        const files = event.dataTransfer?.files;
        if (files === undefined || files.length === 0) return;
        event.preventDefault();
        void conversation.attachFiles(files);
      }}
    >
      <Header conversation={conversation} onOpenList={onOpenList} onDelete={onDelete} />
      {!app.isOnline.value && (
        <p class="banner" role="status">
          You are offline. Answers go on being written, and appear here as soon as you are back.
        </p>
      )}
      {app.failure.value !== null && (
        <p class="banner" role="alert">
          {app.failure.value}
          <button type="button" class="link-button" onClick={() => void app.load()}>
            Try again
          </button>
        </p>
      )}
      <Thread conversation={conversation} />
      <Composer conversation={conversation} />
      <Announcer conversation={conversation} />
      {isDragging.value && <div class="drop-target">Drop files to attach them</div>}
    </main>
  );
}

function Header({ conversation, onOpenList, onDelete }: Omit<ChatViewProps, "isCovered">) {
  const app = useApp();
  const isRenaming = useSignal(false);
  const renamer = useRef<HTMLButtonElement>(null);
  const chat = conversation.chat.value;
  return (
    <header class="chat-head">
      <button
        id="open-list"
        type="button"
        class="icon-button only-narrow"
        aria-label="Show the list of chats"
        onClick={onOpenList}
      >
        <Icon name="menu" />
      </button>
      {isRenaming.value && chat !== null ? (
        <TitleField
          title={chat.title ?? ""}
          onDone={(changed) => {
            isRenaming.value = false;
            focusIfLost(() => renamer.current);
            if (changed !== null) void conversation.rename(changed);
          }}
        />
      ) : (
        <h1 dir="auto" onDblClick={() => (isRenaming.value = chat !== null)}>{chat?.title ?? "New chat"}</h1>
      )}
      {chat !== null && (
        <>
          <span class="model-name">{app.modelName(chat.model)}</span>
          <button type="button" class="icon-button" ref={renamer} aria-label="Rename this chat" onClick={() => (isRenaming.value = true)}>
            <Icon name="pencil" />
          </button>
          <button type="button" class="icon-button" aria-label="Delete this chat" onClick={() => onDelete(chat)}>
            <Icon name="trash" />
          </button>
        </>
      )}
    </header>
  );
}

function Thread({ conversation }: { conversation: Conversation }) {
  const scroller = useRef<HTMLDivElement>(null);
  const top = useRef<HTMLDivElement>(null);
  const isAway = useSignal(false);
  const follower = useRef<Follower | null>(null);
  const turns = conversation.turns.value;

  useLayoutEffect(() => {
    follower.current = new Follower(scroller.current!, (away) => (isAway.value = away));
    return () => follower.current?.dispose();
  }, [conversation]);

  // A question of one's own is always shown.
  const latest = conversation.latest.value;
  useLayoutEffect(() => {
    if (latest?.isLive.value === true) follower.current?.toEnd();
  }, [latest]);

  useEffect(() => {
    const observer = new IntersectionObserver(
      ([entry]) => {
        const element = scroller.current;
        if (!entry?.isIntersecting || element === null) return;
        const fromEnd = element.scrollHeight - element.scrollTop;
        // What is put in above must not move what is being read.
        void conversation.loadOlder().then(() => {
          requestAnimationFrame(() => (element.scrollTop = element.scrollHeight - fromEnd));
        });
      },
      { root: scroller.current, rootMargin: "200px 0px 0px" },
    );
    if (top.current !== null) observer.observe(top.current);
    return () => observer.disconnect();
  }, [conversation, turns.length, conversation.hasOlder.value]);

  return (
    <div class="thread" ref={scroller} data-away={isAway.value} tabIndex={0} role="region" aria-label="Conversation">
      {turns.length === 0 ? (
        <Empty conversation={conversation} />
      ) : (
        <div class="column">
          {conversation.hasOlder.value && (
            <div class="older" ref={top} role="status">
              Loading earlier messages…
            </div>
          )}
          {turns.map((turn) => (
            <TurnView
              key={turn.requestId}
              turn={turn}
              conversation={conversation}
              isLatest={turn === latest}
              onGrown={() => follower.current?.grown()}
            />
          ))}
        </div>
      )}
      {isAway.value && turns.length > 0 && (
        <button type="button" class="to-end" onClick={() => follower.current?.toEnd()} aria-label="Go to the latest">
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}

const IDEAS = [
  "Explain optimistic locking to a new colleague",
  "Write a haiku about a stream that never breaks",
  "What changed between HTTP/1.1 and HTTP/2?",
];

function Empty({ conversation }: { conversation: Conversation }) {
  const app = useApp();
  if (conversation.isMissing.value) {
    return (
      <div class="empty">
        <h2>This chat does not exist</h2>
        <p>It may have been deleted.</p>
        <button type="button" class="button" onClick={() => app.newChat()}>
          Start a new chat
        </button>
      </div>
    );
  }
  if (conversation.failure.value !== null) {
    return (
      <div class="empty" role="alert">
        <h2>This chat could not be read</h2>
        <p>{conversation.failure.value}</p>
        <button type="button" class="button" onClick={() => void conversation.refresh()}>
          Try again
        </button>
      </div>
    );
  }
  if (conversation.isLoading.value) return <div class="empty" aria-busy="true" />;
  return (
    <div class="empty">
      <h2>What is on your mind?</h2>
      <p>Answers are written at the server. Close the tab, lose the network: they are here when you come back.</p>
      <ul class="ideas">
        {IDEAS.map((idea) => (
          <li key={idea}>
            <button
              type="button"
              onClick={() => {
                conversation.draft.value = idea;
                focusComposer();
              }}
            >
              {idea}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
