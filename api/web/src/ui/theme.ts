/** Light or dark: as the system has it, or as chosen here, in this browser. */

import { effect, signal } from "@preact/signals";

export type Theme = "auto" | "light" | "dark";

const KEY = "mini-chat:theme";
const ORDER: readonly Theme[] = ["auto", "light", "dark"];

export const theme = signal<Theme>(stored());

effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme.value;
});

export function nextTheme(): void {
  theme.value = ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length]!;
  localStorage.setItem(KEY, theme.value);
}

function stored(): Theme {
  const value = localStorage.getItem(KEY);
  return ORDER.find((known) => known === value) ?? "auto";
}
