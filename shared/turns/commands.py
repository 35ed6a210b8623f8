"""What the actions of `mini-chat turns` do; `shared.turns.command_line` tells how they are called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from shared.console import (
    EXIT_FAILURE,
    EXIT_OK,
    fail,
    in_one_line,
    write_json,
    write_line,
    write_table,
)
from shared.db.command import run_on_database
from shared.db.engine import open_database
from shared.events.log import EventLog
from shared.settings import Settings
from shared.turns.hand_back import HandBack, TurnRelease
from shared.turns.history import EventRun, ToldMessage, find_messages, read_events, settlement_of
from shared.turns.listing import SeenTurn, find_turn, list_turns
from shared.turns.operating import TurnOperator, open_operator
from shared.turns.repository import TurnRepository
from shared.valkey.client import open_valkey

_LONGEST_ERROR: Final = 80

_CANCELLED: Final[Mapping[str, str]] = {
    "cancelled": "has ended; the text so far is kept",
    "requested": "its worker has been told, and ends it",
    "ended": "had ended already",
    "not_found": "there is no such turn",
}
_HANDED_BACK: Final[Mapping[str, str]] = {
    HandBack.HANDED_BACK: "taken from its worker; another one starts it over",
    HandBack.QUEUED: "no worker holds it; it is in the queue",
    HandBack.WOULD_FAIL: "left alone: its client wants no restart, so it would fail; cancel it instead",
    HandBack.MOVED: "left alone: it has moved on meanwhile; look again",
    HandBack.ENDED: "had ended already",
    HandBack.NOT_FOUND: "there is no such turn",
}
_LEFT_ALONE: Final = frozenset({"not_found", HandBack.NOT_FOUND, HandBack.WOULD_FAIL, HandBack.MOVED})


def run(settings: Settings, options: argparse.Namespace) -> int:
    """The exit code.

    Raises:
        ConfigurationError: `database.url`, or for a change `redis.url`, is not set.
    """
    match options.action:
        case "list":
            return run_on_database(settings, _list(settings, options))
        case "show":
            return run_on_database(settings, _show(settings, options))
        case _:
            return run_on_database(settings, _change(settings, options))


async def _list(settings: Settings, options: argparse.Namespace) -> int:
    async with open_database(settings.database) as (_, sessions), sessions() as session:
        turns = await list_turns(
            session, settings, state=options.state, limit=options.limit, tenant_id=options.tenant, chat_id=options.chat
        )
    if options.json:
        write_json([seen.document for seen in turns])
    elif not turns:
        write_line("No such turns.")
    else:
        header = ("ID", "CHAT", "STATE", "ATTEMPT", "AGE", "SILENT", "MODEL", "HELD BY", "ERROR")
        write_table(header, [_cells(seen) for seen in turns])
        if len(turns) == options.limit:
            sys.stderr.write(f"These are {options.limit}; there may be more (--limit).\n")
    return EXIT_OK


def _cells(seen: SeenTurn) -> tuple[str, ...]:
    turn = seen.turn
    return (
        *(str(turn.id), str(turn.chat_id), seen.phase, str(turn.attempt)),
        *(_duration(seen.age), "-" if seen.silence is None else _duration(seen.silence)),
        *(turn.effective_model or "-", turn.lease_owner or "-", turn.error_code or "-"),
    )


async def _show(settings: Settings, options: argparse.Namespace) -> int:
    async with open_database(settings.database) as (_, sessions), sessions() as session:
        seen = await find_turn(session, settings, *options.turn)
        if seen is None:
            return fail("there is no such turn")
        messages = await find_messages(session, seen.turn)
    events = None
    if settings.redis.url is not None:
        async with open_valkey(settings.redis) as valkey:
            events = await read_events(EventLog(valkey, settings), seen.turn, with_content=options.content)
    if options.json:
        write_json(
            {
                "turn": seen.document,
                "events": None if events is None else [run.document for run in events],
                "settlement": settlement_of(messages),
                "outbox": [message.document(with_content=options.content) for message in messages],
            }
        )
    else:
        _write_turn(seen)
        _write_events(events)
        _write_settlement(settlement_of(messages), seen)
        _write_messages(messages, with_content=options.content)
    return EXIT_OK


def _write_turn(seen: SeenTurn) -> None:
    turn = seen.turn
    held = "nobody holds it"
    if turn.lease_expires_at is not None:
        left = turn.lease_expires_at - seen.now
        until = f"for {_duration(left)} more" if left > timedelta() else f"until {_duration(-left)} ago"
        held = f"held by {turn.lease_owner} {until}"
    lines = {
        "Turn": str(turn.id),
        "Chat/request": f"{turn.chat_id}/{turn.request_id}",
        "Tenant, user": f"{turn.tenant_id}, {turn.requester_user_id}",
        "Model": f"{turn.effective_model} ({turn.quota_decision}{_because(turn.downgrade_reason)})",
        "State": seen.phase + ("" if turn.deleted_at is None else ", deleted") + _because(turn.error_code),
        "Error": in_one_line(turn.error_detail or "-"),
        "Attempts": f"{turn.attempt}, {turn.lost_attempts} of them lost; on worker loss: {turn.on_worker_loss}",
        "Lease": held if turn.state == "running" else "-",
        "Stop": f"{_time(turn.cancel_requested_at)}{_because(turn.cancel_trigger)}",
        "Started": f"{_time(turn.started_at)}, {_duration(seen.age)} ago",
        "Progress": _time(turn.last_progress_at),
        "Ended": f"{_time(turn.completed_at)}{_took(seen)}",
        "Message": "-" if turn.assistant_message_id is None else str(turn.assistant_message_id),
    }
    for name, text in lines.items():
        write_line(f"{name:<14}{text}")


def _write_events(events: list[EventRun] | None) -> None:
    write_line()
    if events is None:
        write_line("Events        unknown: Valkey or Redis cannot be asked")
        return
    if not events:
        write_line("Events        none: the log has expired, or was never written")
        return
    write_line("Events")
    rows = [
        (run.first_id, "" if run.count == 1 else run.last_id, run.event, str(run.count), str(run.bytes))
        for run in events
    ]
    write_table(("FIRST", "LAST", "EVENT", "COUNT", "BYTES"), rows, indent="  ")
    for run in events:
        for frame in run.frames:
            write_line(f"  {in_one_line(frame)}")


def _write_settlement(settlement: Mapping[str, Any] | None, seen: SeenTurn) -> None:
    write_line()
    if settlement is not None:
        usage = settlement["usage"] or {}
        write_line(
            f"Settlement    {settlement['settlement_method']}: {settlement['committed_credits_micro']} of"
            f" {settlement['reserved_credits_micro']} micro-credits reserved, {usage.get('input_tokens', 0)} tokens in,"
            f" {usage.get('output_tokens', 0)} out"
        )
    elif seen.turn.state == "running":
        write_line(f"Settlement    none yet; {seen.turn.reserved_credits_micro or 0} micro-credits are reserved")
    else:
        write_line("Settlement    its usage event is no longer kept (outbox.retention_hours)")


def _write_messages(messages: Sequence[ToldMessage], *, with_content: bool) -> None:
    write_line()
    if not messages:
        write_line("Outbox        nothing")
        return
    write_line("Outbox")
    rows = [
        (
            *(str(message.id), message.queue, message.payload_type, message.state, str(message.attempts)),
            in_one_line(message.error or "-", at_most=_LONGEST_ERROR),
        )
        for message in messages
    ]
    write_table(("ID", "QUEUE", "TYPE", "STATE", "ATTEMPTS", "ERROR"), rows, indent="  ")
    if with_content:
        write_line()
        write_json([message.payload for message in messages])


async def _change(settings: Settings, options: argparse.Namespace) -> int:
    async with open_operator(settings) as operator:
        change = _Cancel(operator) if options.action == "cancel" else _Release(operator)
        outcomes = {turn_id: await change.apply(turn_id) for turn_id in dict.fromkeys(options.ids)}
    if options.json:
        write_json([{"id": str(turn_id), "outcome": str(outcome)} for turn_id, outcome in outcomes.items()])
    else:
        for turn_id, outcome in outcomes.items():
            write_line(f"{turn_id}: {change.texts[outcome]}")
    return EXIT_FAILURE if any(outcome in _LEFT_ALONE for outcome in outcomes.values()) else EXIT_OK


class _Cancel:
    texts = _CANCELLED

    def __init__(self, operator: TurnOperator) -> None:
        self._operator = operator

    async def apply(self, turn_id: UUID) -> str:
        before = await self._state(turn_id)
        if before != "running":
            return "not_found" if before is None else "ended"
        await self._operator.stopper.stop(turn_id, "user_stop")
        return "requested" if await self._state(turn_id) == "running" else "cancelled"

    async def _state(self, turn_id: UUID) -> str | None:
        async with self._operator.sessions() as session:
            turn = await TurnRepository(session).find(turn_id)
        return None if turn is None else turn.state


class _Release:
    texts = _HANDED_BACK

    def __init__(self, operator: TurnOperator) -> None:
        self._release = TurnRelease(operator.sessions, operator.log, operator.queue)

    async def apply(self, turn_id: UUID) -> str:
        return await self._release.hand_back(turn_id)


def _because(reason: str | None) -> str:
    return "" if reason is None else f", {reason}"


def _took(seen: SeenTurn) -> str:
    completed_at = seen.turn.completed_at
    return "" if completed_at is None else f", after {_duration(completed_at - seen.turn.started_at)}"


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _duration(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
