"""The first event of a turn, the same bytes whoever writes it: the API, or a worker that finds no log."""

from __future__ import annotations

from shared.events import frames
from shared.events.frames import Frame
from shared.turns.tables import Turn


def started_frame(turn: Turn) -> Frame:
    return frames.stream_started(
        request_id=turn.request_id,
        message_id=turn.planned_message_id,
        is_new_turn=True,
        summary_token_estimate=turn.summary_token_estimate,
    )
