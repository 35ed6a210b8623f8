/** How long to wait before connection attempt `failures` + 1: twice as long each time, and never all clients at once. */

const FIRST_MS = 400;
const LONGEST_MS = 15_000;

/**
 * @param failures connections that failed in a row, at least 1.
 * @param random in [0, 1).
 */
export function backoffMs(failures: number, random: () => number): number {
  const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** (failures - 1));
  return ceiling / 2 + (ceiling / 2) * random();
}
