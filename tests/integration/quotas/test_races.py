"""Any interleaving of sends and ends, eight connections at a time, on a real PostgreSQL: the books agree to the last
micro-credit, no limit is passed by a reserve, and nobody is shown a deadlock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.quotas.errors import QuotaExceededError
from shared.turns.errors import GenerationInProgressError
from shared.turns.lifecycle import Ending, TokenUsage
from shared.turns.tables import Turn
from tests.integration.quotas.conftest import OpenLedger
from tests.support.catalogs import DISABLED, MINI, NANO, PREMIUM, STANDARD, acceptance_catalog
from tests.support.ledger import Ledger
from tests.support.tokens import Caller

CONNECTIONS = 8
LIMITS = {
    "default_standard_limits": {"limit_daily_credits_micro": 300_000, "limit_monthly_credits_micro": 700_000},
    "default_premium_limits": {"limit_daily_credits_micro": 260_000, "limit_monthly_credits_micro": 400_000},
}
USERS = 3

models = st.sampled_from([PREMIUM, PREMIUM, STANDARD, MINI, NANO, DISABLED])
usages = st.one_of(st.none(), st.builds(TokenUsage, st.integers(0, 12_000), st.integers(0, 4_000)))
endings = st.one_of(
    st.builds(lambda usage: Ending.completed(text="Hi", usage=usage, response_id=None), usages),
    st.builds(lambda usage: Ending.failed("provider_error", provider_started=True, usage=usage), usages),
    st.builds(
        lambda started, text: Ending.cancelled("user_stop", text=text, provider_started=started),
        st.booleans(),
        st.sampled_from(["", "H"]),
    ),
    st.just(Ending.failed("orphan_timeout", provider_started=True)),
)
steps = st.lists(
    st.tuples(st.integers(0, USERS - 1), models, st.integers(1, 4_000), endings, st.integers(1, 3)),
    min_size=8,
    max_size=24,
)
rounds = st.lists(steps, min_size=1, max_size=3)


async def at_most(limit: int, work: list[Callable[[], Awaitable[None]]]) -> None:
    permits = asyncio.Semaphore(limit)

    async def run(step: Callable[[], Awaitable[None]]) -> None:
        async with permits:
            await step()

    await asyncio.gather(*(run(step) for step in work))


async def test_the_books_agree_after_any_interleaving(open_with: OpenLedger) -> None:
    tree = acceptance_catalog() | LIMITS
    database = {"url": open_with.keywords["database_url"], "pool_size": CONNECTIONS}  # type: ignore[attr-defined]
    async with open_with(tree, database=database) as ledger:
        runs = 0

        # Plans are drawn ahead: hypothesis calls synchronous code, and the loop is running already.
        plans: list[list[list[tuple[int, str, int, Ending, int]]]] = []

        @settings(max_examples=12, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(rounds)
        def draw(plan: list[list[tuple[int, str, int, Ending, int]]]) -> None:
            plans.append(plan)

        draw()
        for plan in plans:
            await play(ledger, plan)
            runs += 1
        assert runs >= 10


async def play(ledger: Ledger, plan: list[list[tuple[int, str, int, Ending, int]]]) -> None:
    """Each round: all sends at once, in chats of their own, and each turn is ended by several at once when it is there.

    Half of the ends of a round come a day later than its sends.
    """
    users = [Caller() for _ in range(USERS)]
    for steps in plan:
        chats = [await ledger.new_chat(users[user], model=model) for user, model, *_ in steps]
        left: list[tuple[Turn, Ending, int]] = []

        async def send(
            index: int,
            chats: list[UUID] = chats,
            steps: list[tuple[int, str, int, Ending, int]] = steps,
            left: list[tuple[Turn, Ending, int]] = left,
        ) -> None:
            user, _, length, ending, enders = steps[index]
            try:
                turn = await ledger.send(users[user], chats[index], "x" * length)
            except QuotaExceededError:
                return
            if index % 2:
                await end(ledger, turn, ending, enders)
            else:
                left.append((turn, ending, enders))

        await at_most(CONNECTIONS, [lambda index=index: send(index) for index in range(len(steps))])  # type: ignore[misc]
        await check(ledger)
        ledger.clock.moment += timedelta(days=1)
        await at_most(
            CONNECTIONS,
            [lambda turn=turn, ending=ending, n=n: end(ledger, turn, ending, n) for turn, ending, n in left],  # type: ignore[misc]
        )
        await check(ledger)
    reserved = await ledger.database.fetchval("SELECT sum(reserved_credits_micro) FROM quota_usage")
    assert reserved == 0


async def end(ledger: Ledger, turn: Turn, ending: Ending, enders: int) -> None:
    results = await asyncio.gather(*(ledger.end(turn, ending) for _ in range(enders)))
    assert sum(result is not None for result in results) == 1


async def check(ledger: Ledger) -> None:
    assert await ledger.differences() == []


async def test_a_limit_is_never_passed_by_reserves_alone(open_with: OpenLedger) -> None:
    """Thirty-two sends of one user at once, for two days: at every moment spent and reserved are within the limits."""
    async with open_with(acceptance_catalog() | LIMITS) as ledger:
        ann = Caller()
        for _ in range(2):
            chats = [await ledger.new_chat(ann, model=PREMIUM if index % 2 else STANDARD) for index in range(32)]
            results = await asyncio.gather(*(ledger.send(ann, chat) for chat in chats), return_exceptions=True)
            turns = [result for result in results if isinstance(result, Turn)]
            assert {type(result) for result in results} <= {Turn, QuotaExceededError}
            for (period, bucket), row in (await ledger.buckets(ann)).items():
                tier = LIMITS["default_premium_limits" if bucket == "tier:premium" else "default_standard_limits"]
                used = row["spent_credits_micro"] + row["reserved_credits_micro"]
                assert used <= tier[f"limit_{period}_credits_micro"]
            await asyncio.gather(
                *(ledger.end(turn, Ending.failed("provider_error", provider_started=True)) for turn in turns)
            )
            await check(ledger)
            ledger.clock.moment += timedelta(days=1)


async def test_of_two_sends_into_one_chat_one_reserves(ledger: Ledger, ann: Caller) -> None:
    chat_id = await ledger.new_chat(ann)
    results = await asyncio.gather(*(ledger.send(ann, chat_id) for _ in range(8)), return_exceptions=True)
    [turn] = [result for result in results if isinstance(result, Turn)]
    assert {type(result) for result in results if result is not turn} == {GenerationInProgressError}
    row = (await ledger.buckets(ann))["daily", "total"]
    assert row["reserved_credits_micro"] == turn.reserved_credits_micro


async def test_a_user_whose_rows_are_locked_holds_up_nobody_else(ledger: Ledger) -> None:
    """Two hundred users of one tenant send at once while one's rows are locked: only that one waits."""
    slow = Caller()
    others = [Caller(tenant_id=slow.tenant_id) for _ in range(199)]
    chats = [await ledger.new_chat(caller) for caller in (slow, *others)]
    first = await ledger.send(slow, await ledger.new_chat(slow))
    async with ledger.database.transaction():
        await ledger.database.execute("SELECT 1 FROM quota_usage WHERE user_id = $1 FOR UPDATE", slow.user_id)
        waiting = asyncio.ensure_future(ledger.send(slow, chats[0]))
        turns = await asyncio.gather(*(ledger.send(*pair) for pair in zip(others, chats[1:], strict=True)))
        assert not waiting.done()
    turns += [first, await waiting]
    for turn in turns:
        await ledger.end(turn, Ending.completed(text="Hi", usage=TokenUsage(5, 5), response_id=None))
