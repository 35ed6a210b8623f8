"""Completed tool calls in the turn's row: beside the stream, and in any case before the turn is settled."""

from __future__ import annotations

import asyncio

from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.settings import QuotaSettings
from shared.turns.tables import Turn
from tests.support.turn_rows import change_turn, get_turn, insert_turn
from tests.support.waiting import wait_until
from worker.turns.held import HeldTurn, Stop, StopKind
from worker.turns.tool_calls import ToolCalls, ToolCounter


def calls_of(turn: Turn, sessions: Sessions) -> tuple[ToolCalls, HeldTurn, Metrics]:
    held, metrics = HeldTurn(turn), Metrics("test")
    counter = ToolCounter.with_settings(QuotaSettings(web_search_max_calls_per_message=2))
    calls = ToolCalls(held, counter=counter, sessions=sessions, metrics=metrics, provider="openai", model="gpt-5.2")
    return calls, held, metrics


async def counts(sessions: Sessions, turn: Turn) -> tuple[int, int]:
    stored = await get_turn(sessions, turn)
    return stored.web_search_completed_count, stored.code_interpreter_completed_count


async def test_calls_are_noted_as_they_complete(sessions: Sessions) -> None:
    turn = await insert_turn(sessions, attempt=1)
    calls, _, metrics = calls_of(turn, sessions)
    async with asyncio.TaskGroup() as tasks:
        noting = tasks.create_task(calls.note())
        assert calls.start("web_search") is None
        assert await counts(sessions, turn) == (0, 0)
        calls.complete("web_search", {})

        async def is_noted() -> bool:
            return await counts(sessions, turn) == (1, 0)

        await wait_until(is_noted, message="the completed call is not noted")
        noting.cancel()
    calls.start("code_interpreter")
    calls.complete("code_interpreter", {"output": ""})
    calls.start("web_search")
    assert calls.start("web_search") == "web_search_calls_exceeded"
    await calls.settle()
    assert await counts(sessions, turn) == (1, 1)
    limited = metrics.registry.get_sample_value("test_tool_call_limited_total", {"tool": "web_search"})
    assert limited == 1


async def test_who_is_superseded_notes_nothing(sessions: Sessions) -> None:
    turn = await insert_turn(sessions, attempt=1)
    calls, held, _ = calls_of(turn, sessions)
    calls.complete("web_search", {})
    await change_turn(sessions, turn, attempt=2)
    await calls.settle()
    assert await counts(sessions, turn) == (0, 0)
    held.stop(Stop(StopKind.SUPERSEDED))
    calls.complete("web_search", {})
    await calls.settle()
    assert await counts(sessions, turn) == (0, 0)


async def test_file_searches_leave_the_row_alone(sessions: Sessions) -> None:
    turn = await insert_turn(sessions, attempt=1)
    calls, _, metrics = calls_of(turn, sessions)
    calls.start("file_search")
    calls.complete("file_search", {"files_searched": 0})
    await calls.settle()
    assert await counts(sessions, turn) == (0, 0)
    assert metrics.registry.get_sample_value("test_retrieval_zero_hit_total") == 1
