"""An ended turn told again from storage, in frames `s-1`, `s-2`, …; nothing of it is computed anew."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.chats.tables import Chat
from shared.events import frames
from shared.events.frames import Frame
from shared.events.ids import ReplayId
from shared.messages.tables import Message
from shared.turns.finalize import done_frame
from shared.turns.lifecycle import Ending, TokenUsage, TurnState, cancelled_frame
from shared.turns.tables import Turn


@dataclass(frozen=True, slots=True)
class Replay:
    """All frames of a replay, in order; the k-th, counted from 1, has the id `s-k`."""

    frames: tuple[Frame, ...]

    def after(self, position: int) -> list[bytes]:
        """The wire bytes of the frames after the `position`-th."""
        return [frame.with_id(ReplayId(index)) for index, frame in enumerate(self.frames, start=1) if index > position]


async def load_replay(session: AsyncSession, turn_id: UUID) -> Replay | None:
    """None if the turn is running, deleted or gone: there is nothing to tell."""
    statement = (
        select(Turn, Message, Chat.model)
        .join(Chat, Chat.id == Turn.chat_id)
        .outerjoin(Message, Message.id == Turn.assistant_message_id)
        .where(Turn.id == turn_id, Turn.state != TurnState.RUNNING, Turn.deleted_at.is_(None))
    )
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else build_replay(row[0], message=row[1], selected_model=row[2])


def build_replay(turn: Turn, *, message: Message | None, selected_model: str) -> Replay:
    """The frames of an ended turn; `message` is its stored answer, whole or partial, if it has one."""
    told = [
        frames.stream_started(
            request_id=turn.request_id,
            message_id=turn.planned_message_id if message is None else message.id,
            is_new_turn=False,
            summary_token_estimate=turn.summary_token_estimate,
        )
    ]
    if message is not None:
        told.append(frames.delta(message.content))
        if message.citations:
            told.append(frames.citations(message.citations))
    told.append(_end(turn, message, selected_model))
    return Replay(tuple(told))


def _end(turn: Turn, message: Message | None, selected_model: str) -> Frame:
    match TurnState(turn.state):
        case TurnState.COMPLETED:
            usage = None if message is None else TokenUsage(message.input_tokens, message.output_tokens)
            return done_frame(turn, selected_model=selected_model, usage=usage)
        case TurnState.CANCELLED:
            return cancelled_frame(turn.cancel_trigger)
        case _:
            return Ending.failed(turn.error_code or "internal_error", provider_started=True).error_frame()
