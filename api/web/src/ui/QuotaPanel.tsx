import type { QuotaPeriod } from "../api";
import { useApp } from "./context";
import { whenReset } from "./time";

const TIER_NAMES: Record<string, string> = { premium: "Premium models", total: "All models" };
const PERIOD_NAMES: Record<string, string> = { daily: "today", monthly: "this month" };
const MICRO = 1_000_000;

/** What is left of each allowance, and when it comes back. The tightest one is always shown, the others on demand. */
export function QuotaPanel() {
  const quota = useApp().quota.value;
  if (quota === null) return <div class="quota" />;
  const all = quota.tiers.flatMap(({ tier, periods }) => periods.map((period) => ({ tier, period })));
  const tightest = all.toSorted((a, b) => a.period.remaining_percentage - b.period.remaining_percentage)[0];
  if (tightest === undefined) return <div class="quota" />;
  return (
    <details class="quota">
      <summary>
        <span class="quota-title">Credits</span>
        <Meter {...tightest} />
      </summary>
      {all
        .filter((entry) => entry !== tightest)
        .map((entry) => (
          <Meter key={entry.tier + entry.period.period} {...entry} />
        ))}
    </details>
  );
}

function Meter({ tier, period }: { tier: string; period: QuotaPeriod }) {
  const name = `${TIER_NAMES[tier] ?? tier}, ${PERIOD_NAMES[period.period] ?? period.period}`;
  const left = period.remaining_percentage;
  const state = period.exhausted ? "exhausted" : period.warning ? "warning" : "fine";
  return (
    <span class="meter" data-state={state}>
      <span class="meter-name">{name}</span>
      <span class="meter-value">{period.exhausted ? "used up" : `${left} % left`}</span>
      <span
        class="meter-bar"
        role="meter"
        aria-label={`${name}: left`}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={left}
        title={`${credits(period.used_credits_micro)} of ${credits(period.limit_credits_micro)} credits used`}
      >
        <span class="meter-fill" style={{ width: `${left}%` }} />
      </span>
      <span class="meter-reset">resets {whenReset(period.next_reset)}</span>
    </span>
  );
}

function credits(micro: number): string {
  return (micro / MICRO).toLocaleString(undefined, { maximumFractionDigits: 2 });
}
