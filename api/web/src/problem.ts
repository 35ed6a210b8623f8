/** What the API says when it refuses something (RFC 9457). */

export interface Problem {
  status: number;
  code: string;
  detail: string;
  quota_scope?: string;
  /** From the `Retry-After` header. */
  retryAfterMs?: number;
}

export class ProblemError extends Error {
  override readonly name = "ProblemError";

  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

/** The same request may succeed later. */
export function isPassing({ status, code }: Problem): boolean {
  return status === 0 || status >= 500 || code === "rate_limited";
}

/** The problem that an answer without success carries; one made from its status, if it comes from something in between. */
export async function problemOf(response: Response): Promise<Problem> {
  const seconds = Number(response.headers.get("Retry-After"));
  const retryAfterMs = seconds > 0 ? { retryAfterMs: seconds * 1_000 } : {};
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    const { status, code, detail, quota_scope } = (await response.json()) as Problem;
    return { status, code, detail, ...(quota_scope === undefined ? {} : { quota_scope }), ...retryAfterMs };
  }
  return {
    status: response.status,
    code: response.status >= 500 ? "unreachable" : "unexpected_answer",
    detail: `The server answered ${response.status}`,
    ...retryAfterMs,
  };
}
