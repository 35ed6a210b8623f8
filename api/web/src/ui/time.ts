/** Times in the words of the reader's language. */

const RELATIVE = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit" });
const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** When a quota comes back: the hour, the weekday or the date, by how far it is. */
export function whenReset(timestamp: string, now = Date.now()): string {
  const at = new Date(timestamp);
  const distance = at.getTime() - now;
  if (distance < DAY_MS) return `at ${CLOCK.format(at)}`;
  return distance < 6 * DAY_MS ? DAY.format(at) : `on ${DATE.format(at)}`;
}

/** The heading under which a chat stands in the list. */
export function dayOf(timestamp: string, now = new Date()): string {
  const days = Math.round((startOfDay(now) - startOfDay(new Date(timestamp))) / DAY_MS);
  if (days < 2) return capitalized(RELATIVE.format(-days, "day"));
  if (days < 7) return "This week";
  return days < 31 ? "This month" : "Older";
}

function startOfDay(date: Date): number {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
