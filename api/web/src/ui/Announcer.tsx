import { useEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import type { Conversation } from "../state/conversation";
import type { Status, Turn } from "../state/turn";

const WORDS: Partial<Record<Status, string>> = {
  thinking: "The answer has been asked for.",
  writing: "The answer is being written.",
  reconnecting: "Reconnecting.",
  resumed: "Resumed.",
  restarted: "Restarted: the answer begins anew.",
  stopped: "Stopped.",
  interrupted: "Interrupted.",
};
const LONGEST_READ = 600;

/** Tells a screen reader what happens to the latest answer, and the answer once it is there, but not every word as it comes. */
export function Announcer({ conversation }: { conversation: Conversation }) {
  const words = useSignal("");
  const turn = conversation.latest.value;
  const status = turn?.status.value;
  const live = useRef<Turn | null>(null);
  const written = useRef<Turn | null>(null);

  useEffect(() => {
    if (turn === null || status === undefined) return;
    if (turn.isLive.value) live.current = turn;
    if (live.current !== turn) return; // it was there before somebody looked
    if (!turn.isLive.value) live.current = null;
    // Said once: streams that take turns, or come back, go from word to word every few seconds.
    if (status === "queued" || (status === "writing" && written.current === turn)) return;
    written.current = status === "writing" ? turn : status === "restarted" ? null : written.current;
    const text = turn.text.value;
    words.value = status === "done" ? (text.length < LONGEST_READ ? text : "The answer is complete.") : (WORDS[status] ?? "");
  }, [turn, status]);

  return (
    <div class="visually-hidden" role="status" aria-live="polite">
      {words.value}
    </div>
  );
}
