/** The events of a turn, as the API sends them. The contract only grows: unknown events and members are passed over. */

export interface StreamStarted {
  request_id: string;
  message_id: string;
  is_new_turn: boolean;
  thread_summary_applied?: { token_estimate: number };
}

export interface Delta {
  type: "text" | "reasoning";
  content: string;
}

export type ToolName = "file_search" | "web_search" | "code_interpreter";

export interface ToolCall {
  phase: "start" | "progress" | "done";
  name: ToolName;
  details: { files_searched?: number; output?: string };
}

export interface Citation {
  source: "file" | "web";
  title: string;
  url?: string;
  attachment_id?: string;
  snippet: string;
  score?: number;
  span?: { start: number; end: number };
}

export interface Restart {
  attempt: number;
  reason: "worker_lost" | "log_lost";
}

export type DowngradeReason =
  | "premium_quota_exhausted"
  | "force_standard_tier"
  | "disable_premium_tier"
  | "model_disabled";

export interface QuotaWarning {
  tier: string;
  period: string;
  remaining_percentage: number;
  warning: boolean;
  exhausted: boolean;
  next_reset?: string;
}

export interface Done {
  usage: { input_tokens: number; output_tokens: number; model: string } | null;
  effective_model: string;
  selected_model: string;
  quota_decision: "allow" | "downgrade";
  downgrade_from?: string;
  downgrade_reason?: DowngradeReason;
  quota_warnings?: QuotaWarning[];
}

export interface Failure {
  code: string;
  message: string;
  quota_scope?: string;
}

export type TurnEvent =
  | { type: "stream_started"; data: StreamStarted }
  | { type: "delta"; data: Delta }
  | { type: "tool"; data: ToolCall }
  | { type: "citations"; data: { items: Citation[] } }
  | { type: "restart"; data: Restart }
  | { type: "done"; data: Done }
  | { type: "error"; data: Failure };

const KNOWN: ReadonlySet<string> = new Set<TurnEvent["type"]>([
  "stream_started",
  "delta",
  "tool",
  "citations",
  "restart",
  "done",
  "error",
]);

/**
 * The event of a frame; null for one that says nothing about the turn: a ping, or a kind that came later than we did.
 *
 * @throws SyntaxError the data are not JSON.
 */
export function decodeEvent(name: string | undefined, data: string): TurnEvent | null {
  if (name === undefined || !KNOWN.has(name)) return null;
  return { type: name, data: JSON.parse(data) as unknown } as TurnEvent;
}

/** Nothing comes after it. */
export function isTerminal(event: TurnEvent): boolean {
  return event.type === "done" || event.type === "error";
}

/** It means: drop what you have of this answer. */
export function isReset(event: TurnEvent): boolean {
  return event.type === "stream_started" || event.type === "restart";
}
