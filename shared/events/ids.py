"""Where an event stands in its turn: the SSE `id` of a frame and the cursor of a client.

Two families share the wire. `<attempt>-<seq>` is the id of an entry of the event log: attempts count from 1, `seq` is
contiguous within an attempt, `0-1` is `stream_started` and `n-0` opens attempt n. `s-<k>` counts, from 1, the frames of
a replay from storage, which is what clients get once the log is gone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ENTRY = re.compile(r"(\d{1,10})-(\d{1,10})", re.ASCII)
_REPLAY = re.compile(r"s-([1-9])", re.ASCII)


class EntryId(NamedTuple):
    """The id of a log entry; ordered as the log is."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @property
    def next(self) -> EntryId:
        return EntryId(self.attempt, self.seq + 1)

    @classmethod
    def parse(cls, text: str) -> EntryId:
        """Raises ValueError if `text` is not `<attempt>-<seq>`."""
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise ValueError("not an entry id")
        return cls(int(match[1]), int(match[2]))


STARTED = EntryId(0, 1)
"""The id of `stream_started`, the first entry of every log."""


class ReplayId(NamedTuple):
    """The id of the k-th frame of a replay from storage, k from 1."""

    position: int

    def __str__(self) -> str:
        return f"s-{self.position}"


Cursor = EntryId | ReplayId | None
"""After which frame a client wants to go on; None: from the start."""


def opening(attempt: int) -> EntryId:
    """The id of the entry that opens `attempt`."""
    return EntryId(attempt, 0)


def parse_cursor(text: str | None) -> Cursor:
    """Read a `Last-Event-ID`; None and the empty text mean: from the start.

    Raises:
        ValueError: it has neither form.
    """
    if not text:
        return None
    replay = _REPLAY.fullmatch(text)
    return ReplayId(int(replay[1])) if replay else EntryId.parse(text)
