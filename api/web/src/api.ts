/** The requests that are not streams. Members are named as on the wire. */

import { problemOf, ProblemError, type Problem } from "./problem";

export interface Chat {
  id: string;
  model: string;
  title?: string;
  message_count: number;
  running_request_id?: string;
  created_at: string;
  updated_at: string;
}

export interface Thumbnail {
  content_type: "image/webp";
  width: number;
  height: number;
  data_base64: string;
}

export type AttachmentStatus = "pending" | "ready" | "failed";
export type AttachmentKind = "document" | "image";

/** An attachment as a message shows it. */
export interface MessageAttachment {
  attachment_id: string;
  kind: AttachmentKind;
  filename: string;
  status: AttachmentStatus;
  img_thumbnail?: Thumbnail;
}

export interface Attachment {
  id: string;
  filename: string;
  size_bytes: number;
  status: AttachmentStatus;
  kind: AttachmentKind;
  error_code?: string;
  img_thumbnail?: Thumbnail;
}

export type Reaction = "like" | "dislike";

export interface Message {
  id: string;
  request_id: string;
  role: "user" | "assistant" | "system";
  content: string;
  attachments: MessageAttachment[];
  my_reaction: Reaction | null;
  model?: string;
  input_tokens?: number;
  output_tokens?: number;
  created_at: string;
}

export interface Model {
  model_id: string;
  display_name: string;
  tier: "standard" | "premium";
  multiplier_display: string;
  description?: string;
  multimodal_capabilities: string[];
  context_window: number;
}

export interface QuotaPeriod {
  period: string;
  limit_credits_micro: number;
  used_credits_micro: number;
  remaining_percentage: number;
  next_reset: string;
  warning: boolean;
  exhausted: boolean;
}

export interface QuotaStatus {
  tiers: { tier: string; periods: QuotaPeriod[] }[];
  warning_threshold_pct: number;
}

export interface Page<T> {
  items: T[];
  page_info: { limit: number; next_cursor: string | null; prev_cursor: string | null };
}

export interface ApiOptions {
  basePath: string;
  authorization(): string | null;
  /** The server did not accept these credentials, which may be others than those of now. */
  onUnauthenticated(authorization: string | null): void;
}

export class Api {
  constructor(private readonly options: ApiOptions) {}

  async listModels(): Promise<Model[]> {
    return (await this.#json<{ items: Model[] }>("GET", "/models")).items;
  }

  getQuota(): Promise<QuotaStatus> {
    return this.#json("GET", "/quota/status");
  }

  /** The chats by their last change, newest first. */
  listChats(cursor: string | null): Promise<Page<Chat>> {
    return this.#json("GET", `/chats?${query({ limit: "30", cursor })}`);
  }

  getChat(id: string): Promise<Chat> {
    return this.#json("GET", `/chats/${id}`);
  }

  createChat(model: string | null): Promise<Chat> {
    return this.#json("POST", "/chats", model === null ? {} : { model });
  }

  renameChat(id: string, title: string): Promise<Chat> {
    return this.#json("PATCH", `/chats/${id}`, { title });
  }

  async deleteChat(id: string): Promise<void> {
    await this.#request("DELETE", `/chats/${id}`);
  }

  /** The messages of a chat, newest first. */
  listMessages(chatId: string, cursor: string | null): Promise<Page<Message>> {
    const order = cursor === null ? { $orderby: "created_at desc,id desc" } : {};
    return this.#json("GET", `/chats/${chatId}/messages?${query({ limit: "40", cursor, ...order })}`);
  }

  async cancelTurn(chatId: string, requestId: string): Promise<void> {
    await this.#request("POST", `/chats/${chatId}/turns/${requestId}/cancel`);
  }

  async deleteTurn(chatId: string, requestId: string): Promise<void> {
    await this.#request("DELETE", `/chats/${chatId}/turns/${requestId}`);
  }

  async setReaction(chatId: string, messageId: string, reaction: Reaction | null): Promise<void> {
    const path = `/chats/${chatId}/messages/${messageId}/reaction`;
    if (reaction === null) await this.#request("DELETE", path);
    else await this.#request("PUT", path, { reaction });
  }

  getAttachment(chatId: string, id: string): Promise<Attachment> {
    return this.#json("GET", `/chats/${chatId}/attachments/${id}`);
  }

  async deleteAttachment(chatId: string, id: string): Promise<void> {
    await this.#request("DELETE", `/chats/${chatId}/attachments/${id}`);
  }

  /** `onProgress` is given the share that has been sent, 0 to 1. An XMLHttpRequest, as `fetch` cannot tell. */
  upload(chatId: string, file: File, onProgress: (share: number) => void, signal: AbortSignal): Promise<Attachment> {
    const form = new FormData();
    form.append("file", file);
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", `${this.options.basePath}/chats/${chatId}/attachments`);
      const authorization = this.options.authorization();
      if (authorization !== null) request.setRequestHeader("Authorization", authorization);
      request.upload.onprogress = ({ loaded, total }) => onProgress(total > 0 ? loaded / total : 0);
      request.onerror = () => reject(new ProblemError(OFFLINE));
      request.onload = () => {
        const headers = { "Content-Type": request.getResponseHeader("Content-Type") ?? "" };
        this.#checked(new Response(request.responseText, { status: request.status, headers }), authorization)
          .then((response) => response.json() as Promise<Attachment>)
          .then(resolve, reject);
      };
      signal.addEventListener("abort", () => {
        request.abort();
        reject(signal.reason);
      });
      request.send(form);
    });
  }

  async #json<T>(method: string, path: string, body?: unknown): Promise<T> {
    return (await (await this.#request(method, path, body)).json()) as T;
  }

  async #request(method: string, path: string, body?: unknown): Promise<Response> {
    const headers = new Headers();
    const authorization = this.options.authorization();
    if (authorization !== null) headers.set("Authorization", authorization);
    const request: RequestInit = { method, headers };
    if (body !== undefined) {
      headers.set("Content-Type", "application/json");
      request.body = JSON.stringify(body);
    }
    const response = await fetch(this.options.basePath + path, request).catch(() => {
      throw new ProblemError(OFFLINE);
    });
    return this.#checked(response, authorization);
  }

  async #checked(response: Response, authorization: string | null): Promise<Response> {
    if (response.ok) return response;
    if (response.status === 401) this.options.onUnauthenticated(authorization);
    throw new ProblemError(await problemOf(response));
  }
}

const OFFLINE: Problem = { status: 0, code: "offline", detail: "The server cannot be reached" };

function query(options: Record<string, string | null>): string {
  const given = Object.entries(options).filter((entry): entry is [string, string] => entry[1] !== null);
  return new URLSearchParams(given).toString();
}
