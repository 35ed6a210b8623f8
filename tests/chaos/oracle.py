"""Judges a run: for every turn, one end, and the same text in the database, the log and the client's hands; and for
every user, books that agree to the last micro-credit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import asyncpg

from shared.events.ids import EntryId
from tests.chaos.clients import Told
from tests.support.books import find_differences
from tests.support.deployment import Deployment
from tests.support.sse import shown_text

PROVIDER_FAILURES = {"provider_error", "provider_timeout", "rate_limited"}


_UNPAID = """
WITH settled AS (
    SELECT t.id, t.state, t.error_code, t.attempt, o.payload->>'settlement_method' AS method,
        (o.payload->>'committed_credits_micro')::bigint AS charge
    FROM chat_turns t JOIN outbox_messages o ON o.queue = 'usage_snapshot' AND o.payload->>'turn_id' = t.id::text
)
SELECT * FROM settled
WHERE (state = 'completed' AND method <> 'actual')
    OR ((attempt >= 2 OR error_code IS NOT NULL) AND method = 'released')
    OR (method = 'released') <> (charge = 0)
"""


class Verdict:
    """What was found wrong, in words, and what became of the turns."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def complain(self, told: Told | None, text: str, row: Any = None) -> None:
        history = "" if told is None else f"\n{told.history}\n  row: {_brief(row)}"
        self.complaints.append(text + history)


def _brief(row: Any) -> str:
    names = ("state", "error_code", "attempt", "lost_attempts", "cancel_trigger", "on_worker_loss", "content")
    return "none" if row is None else ", ".join(f"{name}={row[name]!r:.80}" for name in names)


async def judge(product: Deployment, turns: list[Told]) -> Verdict:
    verdict = Verdict()
    connection = await asyncpg.connect(product.database_url)
    try:
        for told in turns:
            row = await connection.fetchrow(
                "SELECT t.*, m.content FROM chat_turns t LEFT JOIN messages m ON m.id = t.assistant_message_id"
                " WHERE t.chat_id = $1 AND t.request_id = $2",
                told.chat_id,
                told.request_id,
            )
            _judge_turn(verdict, product, told, row)
        await _judge_rest(verdict, connection)
        await _judge_books(verdict, connection)
    finally:
        await connection.close()
    _judge_keys(verdict, product)
    return verdict


def _judge_turn(verdict: Verdict, product: Deployment, told: Told, row: Any) -> None:
    if told.is_refused:
        verdict.outcomes["refused"] += 1
        if row is not None:
            verdict.complain(told, "a refused turn has left a row", row)
        return
    if row is None:
        verdict.complain(told, "a turn was lost")
        return
    state = row["state"]
    verdict.outcomes[state if row["error_code"] is None else f"{state}: {row['error_code']}"] += 1
    _judge_end(verdict, told, row)
    _judge_ids(verdict, told)
    _judge_provider(verdict, product, told, row)


def _judge_end(verdict: Verdict, told: Told, row: Any) -> None:
    shown = shown_text(told.events)
    last = told.events[-1]
    match row["state"]:
        case "completed":
            if last.name != "done" or told.text is None:
                verdict.complain(told, "a completed turn ended otherwise for its client", row)
            if not shown == row["content"] == told.text:
                verdict.complain(told, "texts differ", row)
        case "cancelled":
            if not told.is_stopped:
                verdict.complain(told, "nobody stopped this turn", row)
            if shown != (row["content"] or ""):
                verdict.complain(told, "the partial text is not what was shown", row)
        case "failed":
            is_provider = told.text is None and row["error_code"] in PROVIDER_FAILURES
            is_loss = told.on_worker_loss == "fail" and row["error_code"] == "orphan_timeout"
            if not (is_provider or is_loss) or last.data.get("code") != row["error_code"]:
                verdict.complain(told, "a turn failed that should not have", row)
        case _:
            verdict.complain(told, "a turn is stuck", row)


def _judge_provider(verdict: Verdict, product: Deployment, told: Told, row: Any) -> None:
    """It is asked at most once per attempt."""
    asked = [
        request
        for request in product.provider_requests(told.marker)
        # Later turns of the chat have the question in their history.
        if told.marker in str(request["body"]["input"][-1])
    ]
    if len(asked) > row["attempt"] and not told.is_retry:
        verdict.complain(told, f"the provider was asked {len(asked)} times in {row['attempt']} attempts", row)


def _judge_ids(verdict: Verdict, told: Told) -> None:
    """Ids grow strictly between one start and the next; nothing follows the end."""
    previous: EntryId | None = None
    for event in told.events:
        if event.name == "ping":
            continue
        if event.name == "stream_started" or event.id.startswith("s-"):
            previous = None
        if not event.id.startswith("s-"):
            current = EntryId.parse(event.id)
            if previous is not None and current <= previous:
                verdict.complain(told, f"{current} came after {previous}")
            previous = current
    if any(event.is_terminal for event in told.events[:-1]):
        verdict.complain(told, "something followed the end")


async def _judge_rest(verdict: Verdict, connection: asyncpg.Connection) -> None:
    running = await connection.fetchval("SELECT count(*) FROM chat_turns WHERE state = 'running'")
    leased = await connection.fetchval("SELECT count(*) FROM chat_turns WHERE lease_expires_at IS NOT NULL")
    if running or leased:
        verdict.complain(None, f"{running} turns run and {leased} leases remain")


async def _judge_books(verdict: Verdict, connection: asyncpg.Connection) -> None:
    """Nothing is reserved any more, what was spent is what usage events say, and whoever asked the provider paid."""
    reserved = await connection.fetchval("SELECT coalesce(sum(reserved_credits_micro), 0) FROM quota_usage")
    if reserved:
        verdict.complain(None, f"{reserved} micro-credits stay reserved")
    for difference in await find_differences(connection):
        verdict.complain(None, f"the books do not agree: {difference}")
    for row in await connection.fetch(_UNPAID):
        verdict.complain(None, f"a turn that asked the provider was not charged as it should: {dict(row)}")


def _judge_keys(verdict: Verdict, product: Deployment) -> None:
    valkey = product.valkey()
    for key in valkey.scan_iter("*"):
        if valkey.ttl(key) == -1 and key not in (b"mc:queue:wake", b"mc:queue:running"):
            verdict.complain(None, f"key {key.decode()} never expires")
