/** Files on their way into a chat: sent with progress, then watched until the server has made them ready. */

import { computed, signal, type Signal } from "@preact/signals";
import type { Api, Attachment } from "../api";
import { isPassing, ProblemError } from "../problem";

const POLL_MS = 700;

export class Upload {
  /** The share that has been sent. */
  readonly progress = signal(0);
  readonly attachment = signal<Attachment | null>(null);
  readonly error = signal<string | null>(null);
  readonly preview: string | null;
  readonly #aborted = new AbortController();

  constructor(readonly file: File) {
    this.preview = file.type.startsWith("image/") ? URL.createObjectURL(file) : null;
  }

  readonly isReady = computed(() => this.attachment.value?.status === "ready");
  readonly isPending = computed(() => !this.isReady.value && this.error.value === null);

  async run(api: Api, chatId: string): Promise<void> {
    const { signal } = this.#aborted;
    try {
      let attachment = await api.upload(chatId, this.file, (share) => (this.progress.value = share), signal);
      this.progress.value = 1;
      while (attachment.status === "pending" && !signal.aborted) {
        this.attachment.value = attachment;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        attachment = (await this.#look(api, chatId, attachment.id)) ?? attachment;
      }
      if (attachment.status === "failed") this.error.value = failureText(attachment.error_code);
      this.attachment.value = attachment;
    } catch (error) {
      if (!signal.aborted) this.error.value = error instanceof ProblemError ? error.message : "The upload failed";
    }
  }

  /** Null if nobody answers just now: the server goes on with the file all the same. */
  async #look(api: Api, chatId: string, id: string): Promise<Attachment | null> {
    try {
      return await api.getAttachment(chatId, id);
    } catch (error) {
      if (error instanceof ProblemError && isPassing(error.problem)) return null;
      throw error;
    }
  }

  abort(): void {
    this.#aborted.abort();
    this.release();
  }

  /** Give back what the preview holds. */
  release(): void {
    if (this.preview !== null) URL.revokeObjectURL(this.preview);
  }
}

export class Uploads {
  readonly items: Signal<Upload[]> = signal([]);

  constructor(private readonly api: Api) {}

  readonly isPending = computed(() => this.items.value.some((upload) => upload.isPending.value));

  add(files: Iterable<File>, chatId: string): void {
    const uploads = [...files].map((file) => new Upload(file));
    this.items.value = [...this.items.value, ...uploads];
    for (const upload of uploads) void upload.run(this.api, chatId);
  }

  /** Take one out again, at the server too. */
  async remove(upload: Upload, chatId: string): Promise<void> {
    this.items.value = this.items.value.filter((item) => item !== upload);
    upload.abort();
    const attachment = upload.attachment.value;
    if (attachment !== null) await this.api.deleteAttachment(chatId, attachment.id);
  }

  /** These are done with: sent with a message, or refused before it. Others may have been added since. */
  drop(uploads: Upload[]): void {
    for (const upload of uploads) upload.release();
    this.items.value = this.items.value.filter((upload) => !uploads.includes(upload));
  }

  /** Give up on all of them. */
  abort(): void {
    for (const upload of this.items.value) upload.abort();
    this.items.value = [];
  }
}

function failureText(code: string | undefined): string {
  switch (code) {
    case "file_too_large":
      return "The file is too large";
    case "storage_limit_exceeded":
      return "This chat has no room for more files";
    default:
      return "The file could not be processed";
  }
}
