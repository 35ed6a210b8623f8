/** What is being prepared to be asked in a chat: it waits there while another chat is looked at. */

import { signal } from "@preact/signals";
import type { Api } from "../api";
import { Uploads } from "./uploads";

export class Draft {
  readonly text = signal("");
  readonly isWebSearchOn = signal(false);
  readonly chosenModel = signal<string | null>(null);
  readonly uploads: Uploads;

  constructor(api: Api) {
    this.uploads = new Uploads(api);
  }

  /** Put back what could not be asked, before what has been typed since. */
  takeBack(question: string): void {
    this.text.value = [question, this.text.value].filter((text) => text.trim() !== "").join("\n\n");
  }
}
