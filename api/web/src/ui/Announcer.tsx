import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import type { Conversation } from "../state/conversation";
import type { Status } from "../state/turn";

const WORDS: Partial<Record<Status, string>> = {
  thinking: "The answer has been asked for.",
  writing: "The answer is being written.",
  reconnecting: "Reconnecting.",
  resumed: "Resumed.",
  restarted: "Restarted: the answer begins anew.",
  queued: "Waiting for a connection.",
  stopped: "Stopped.",
  interrupted: "Interrupted.",
};
const LONGEST_READ = 600;

/** Tells a screen reader what happens to the latest answer, and the answer once it is there, but not every word as it comes. */
export function Announcer({ conversation }: { conversation: Conversation }) {
  const words = useSignal("");
  const turn = conversation.latest.value;
  const status = turn?.status.value;
  const wasLive = useSignal(false);

  useEffect(() => {
    if (turn === null || status === undefined) return;
    if (turn.isLive.value) wasLive.value = true;
    if (!wasLive.value) return;
    const text = turn.text.value;
    words.value = status === "done" ? (text.length < LONGEST_READ ? text : "The answer is complete.") : (WORDS[status] ?? "");
    if (!turn.isLive.value) wasLive.value = false;
  }, [turn, status]);

  return (
    <div class="visually-hidden" role="status" aria-live="polite">
      {words.value}
    </div>
  );
}
