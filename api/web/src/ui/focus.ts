/** Where the keyboard is: it must not be lost with an element that goes. */

import { useLayoutEffect, useRef } from "preact/hooks";
import type { RefObject } from "preact";

export function focusComposer(): void {
  document.querySelector<HTMLTextAreaElement>("#composer")?.focus();
}

/**
 * A ref for an element: if it goes with the focus in it, the message field is next. Not after a tap, which would open the
 * keyboard of a phone.
 */
export function useFocusHandover<T extends HTMLElement>(): RefObject<T | null> {
  const ref = useRef<T>(null);
  useLayoutEffect(() => {
    const element = ref.current;
    return () => {
      if (element?.querySelector(":focus-visible") != null) focusIfLost(() => document.querySelector("#composer"));
    };
  }, []);
  return ref;
}

/** Once the page has been drawn, if the focus went with what had it. */
export function focusIfLost(find: () => HTMLElement | null | undefined): void {
  requestAnimationFrame(() => {
    if (document.activeElement === null || document.activeElement === document.body) find()?.focus();
  });
}

/** Does the key belong to an input method, such as the Enter that takes a proposal? Safari tells it by the code alone. */
export function isComposing(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === 229;
}
