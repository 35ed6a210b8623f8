/** A text that grows many times a second. Whoever shows it is told, and decides when to look. */
export class AnswerText {
  #value = "";
  readonly #readers = new Set<() => void>();

  constructor(value = "") {
    this.#value = value;
  }

  get value(): string {
    return this.#value;
  }

  append(piece: string): void {
    this.#change(this.#value + piece);
  }

  clear(): void {
    this.#change("");
  }

  /** Be told of every change; the answer ends that. */
  subscribe(reader: () => void): () => void {
    this.#readers.add(reader);
    return () => this.#readers.delete(reader);
  }

  #change(value: string): void {
    this.#value = value;
    for (const reader of this.#readers) reader();
  }
}
