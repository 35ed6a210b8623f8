"""What the limits count, and what counting costs: one application in-process, with the real engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import ANY

import pytest

from api.auth import ALL_ACTIONS, Principal
from api.limits.errors import LimitReachedError, QueueFullError
from shared.ids import ChatId, RequestId, TenantId, UserId, new_uuid4
from shared.queue.jobs import RunTurn
from shared.settings import Settings
from shared.valkey.keyspace import QUEUE_ADMITTED, LimitKeys, TurnKeys
from shared.valkey.pipeline import PipelinedConnection
from shared.valkey.scripts import run_scripts
from tests.support.api import RunningApi, running_api
from tests.support.problems import assert_problem
from tests.support.tokens import Caller
from tests.support.turns import create_chat, send_path
from tests.support.waiting import wait_until

REFUSED_LATE = {"content": "?", "attachment_ids": [str(new_uuid4())]}
"""A send that passes the limits and is refused by the check after them."""


@asynccontextmanager
async def limited(settings: Settings, **limits: Any) -> AsyncIterator[RunningApi]:
    changed = settings.model_copy(update={"limits": settings.limits.model_copy(update=limits)})
    async with running_api(changed) as api:
        yield api


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each command that was sent by itself, a round trip each."""
    sent: list[str] = []
    execute = PipelinedConnection.execute

    async def note(self: PipelinedConnection, words: Sequence[Any]) -> Any:
        sent.append(str(words[0]))
        return await execute(self, words)

    monkeypatch.setattr(PipelinedConnection, "execute", note)
    return sent


def a_principal() -> Principal:
    return Principal(TenantId(new_uuid4()), UserId(new_uuid4()), ALL_ACTIONS, frozenset())


def a_turn() -> TurnKeys:
    return TurnKeys(ChatId(new_uuid4()), RequestId(new_uuid4()))


async def test_without_limits_nothing_is_counted(settings: Settings, ann: Caller, commands: list[str]) -> None:
    async with limited(settings) as api, api.client(ann) as client:
        chat_id = await create_chat(client)
        commands.clear()
        assert (await client.get("/chats")).status_code == 200
        assert commands == []
        assert_problem(await client.post(send_path(chat_id), json=REFUSED_LATE), 400, "invalid_attachment")
        assert commands == ["PING"]


async def test_all_limits_of_a_send_take_the_round_trip_that_it_makes_anyway(
    settings: Settings, ann: Caller, commands: list[str]
) -> None:
    limits = {
        "requests_per_second": 100,
        "concurrent_turns_per_user": 5,
        "concurrent_streams_per_user": 5,
        "max_queued_turns": 1_000_000,  # other tests leave jobs behind that nobody takes
    }
    async with limited(settings, **limits) as api, api.client(ann) as client:
        await api.context.valkey.script_flush()
        await api.context.limiter.count(a_principal())  # the server has the script again
        chat_id = await create_chat(client)
        commands.clear()
        # Nothing is asked for what the checks before the limits refuse.
        assert_problem(await client.post(send_path(str(new_uuid4())), json={"content": "?"}), 404, "chat_not_found")
        assert commands == []
        assert_problem(await client.post(send_path(chat_id), json=REFUSED_LATE), 400, "invalid_attachment")
        await wait_until(lambda: commands == ["EVALSHA", "ZREM", "ZREM", "ZREM"])


async def test_a_send_that_is_refused_later_gives_its_places_back(settings: Settings, ann: Caller) -> None:
    async with (
        limited(settings, concurrent_turns_per_user=1, concurrent_streams_per_user=1) as api,
        api.client(ann) as client,
    ):
        chat_id = await create_chat(client)
        keys = LimitKeys(ann.tenant_id, ann.user_id)
        for _ in range(3):
            assert_problem(await client.post(send_path(chat_id), json=REFUSED_LATE), 400, "invalid_attachment")
            await wait_until(lambda: _is_empty(api, keys))


async def test_requests_are_counted_once_each_and_refused_with_the_fields_of_the_draft(
    settings: Settings, ann: Caller
) -> None:
    async with limited(settings, requests_per_second=0.5, burst=3) as api, api.client(ann) as client:
        assert [(await client.get("/models")).status_code for _ in range(3)] == [200] * 3
        answer = await client.get("/models")
        assert_problem(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 2
        assert answer.headers["ratelimit-policy"] == '"requests";q=3;w=6'
        assert answer.headers["ratelimit"] == f'"requests";r=0;t={answer.headers["retry-after"]}'
        # Whoever is not let in for another reason is told that reason.
        assert (await client.get("/models", headers={"Authorization": "Bearer x"})).status_code == 401
        assert (await client.get("/models", headers=Caller().headers)).status_code == 200


@pytest.mark.parametrize(("rate", "allowed"), [(0.25, 1), (3, 3), (2.5, 3)])
async def test_without_a_burst_of_its_own_a_rate_allows_what_one_second_does(
    settings: Settings, rate: float, allowed: int
) -> None:
    async with limited(settings, requests_per_second=rate) as api:
        principal = a_principal()
        for _ in range(allowed):
            await api.context.limiter.count(principal)
        with pytest.raises(LimitReachedError):
            await api.context.limiter.count(principal)


async def test_turns_of_two_users_do_not_add_up(settings: Settings) -> None:
    async with limited(settings, concurrent_turns_per_user=1) as api:
        for _ in range(3):
            async with _entering(api, a_principal(), a_turn()):
                pass


async def test_a_turn_counts_until_its_log_has_ended(settings: Settings) -> None:
    async with limited(settings, concurrent_turns_per_user=1) as api:
        principal, turn = a_principal(), a_turn()
        async with _entering(api, principal, turn):
            await api.context.valkey.xadd(turn.events, {"e": "stream_started", "f": ""}, id="0-1")
        await api.context.valkey.xadd(turn.events, {"e": "done", "f": ""}, id="1-1")
        other = a_turn()
        async with _entering(api, principal, other):
            pass
        # Not yet logged: its transaction may be under way.
        with pytest.raises(LimitReachedError) as refused:
            async with _entering(api, principal, a_turn()):
                pass
        assert refused.value.fields == {
            "RateLimit-Policy": '"turns";q=1;qu="concurrent-requests"',
            "RateLimit": '"turns";r=0;t=5',
        }


async def test_a_turn_whose_log_cannot_say_that_it_has_ended_is_looked_up(settings: Settings) -> None:
    """Who should have written the end was killed: the row, which is not there or not running, decides."""
    async with limited(settings, concurrent_turns_per_user=1) as api:
        principal, turn = a_principal(), a_turn()
        async with _entering(api, principal, turn):
            await api.context.valkey.xadd(turn.events, {"e": "stream_started", "f": ""}, id="0-1")
        async with _entering(api, principal, a_turn()):
            pass


async def test_a_place_without_a_log_runs_out(settings: Settings) -> None:
    """The process that took it died before its turn was committed."""
    async with limited(settings, concurrent_turns_per_user=1) as api:
        principal = a_principal()
        keys = LimitKeys(principal.tenant_id, principal.user_id)
        async with _entering(api, principal, a_turn()):
            pass
        [member] = await api.context.valkey.zrange(keys.turns, 0, -1)
        await api.context.valkey.zincrby(keys.turns, -61_000, member)
        async with _entering(api, principal, a_turn()):
            pass


async def test_only_waiting_turns_fill_the_queue(settings: Settings) -> None:
    async with limited(settings, max_queued_turns=2) as api:
        queue = api.context.queue
        await api.context.valkey.flushdb()
        jobs = [RunTurn(new_uuid4(), 1) for _ in range(2)]
        for job in jobs:
            async with _entering(api, a_principal(), a_turn()) as entry:
                await run_scripts(api.context.valkey, [queue.enqueueing(job, place=entry.name)])
        with pytest.raises(QueueFullError) as refused:
            async with _entering(api, a_principal(), a_turn()):
                pass
        assert (refused.value.code, refused.value.retry_after_secs) == ("queue_full", 5)
        assert len(await queue.pick(at_most=1, in_progress_ms=60_000)) == 1
        # Also one that is not yet enqueued.
        async with _entering(api, a_principal(), a_turn()) as entry:
            with pytest.raises(QueueFullError):
                async with _entering(api, a_principal(), a_turn()):
                    pass
            entry.give_back()
            await wait_until(lambda: _is_admissible(api))
        await api.context.valkey.zadd(QUEUE_ADMITTED, {"of a process that died": 1})
        async with _entering(api, a_principal(), a_turn()):
            pass
        await api.context.valkey.flushdb()


async def test_every_key_of_a_limit_expires(settings: Settings) -> None:
    limits = {"requests_per_second": 1, "concurrent_turns_per_user": 1, "concurrent_streams_per_user": 1}
    async with limited(settings, **limits) as api:
        principal = a_principal()
        keys = LimitKeys(principal.tenant_id, principal.user_id)
        async with _entering(api, principal, a_turn()):
            pass
        for key in (keys.rate, keys.turns, keys.streams):
            assert await api.context.valkey.pttl(key) > 0


async def test_a_stream_s_place_is_renewed_even_if_the_server_has_lost_it(settings: Settings) -> None:
    async with limited(settings, concurrent_streams_per_user=1) as api:
        principal = a_principal()
        keys = LimitKeys(principal.tenant_id, principal.user_id)
        place = await api.context.limiter.open_stream(principal)
        assert place is not None
        place.hold()
        await api.context.valkey.delete(keys.streams)
        await wait_until(lambda: api.context.valkey.exists(keys.streams))
        with pytest.raises(LimitReachedError):
            await api.context.limiter.open_stream(principal)
        place.give_back()
        await wait_until(lambda: _is_empty(api, keys))
        assert await api.context.limiter.open_stream(principal) == ANY


async def test_a_send_that_joins_its_turn_counts_and_is_not_refused(settings: Settings) -> None:
    async with limited(settings, concurrent_streams_per_user=1) as api:
        principal = a_principal()
        for _ in range(2):
            assert await api.context.limiter.join_stream(principal) is not None
        with pytest.raises(LimitReachedError):
            await api.context.limiter.open_stream(principal)


def _entering(api: RunningApi, principal: Principal, turn: TurnKeys) -> Any:
    return api.context.limiter.entering(principal, turn, is_valkey_there=True)


async def _is_admissible(api: RunningApi) -> bool:
    return not await api.context.valkey.exists(QUEUE_ADMITTED)


async def _is_empty(api: RunningApi, keys: LimitKeys) -> bool:
    return not await api.context.valkey.exists(keys.turns, keys.streams)
