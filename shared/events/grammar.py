"""The order in which a turn's events may follow each other, as a state machine without I/O.

idle       stream_started -> started        (only `stream_started` opens; a terminal event may close at once)
started    ping -> pinging; delta, tool -> streaming; restart -> started; citations -> cited; terminal
pinging    as started
streaming  delta, tool; restart -> started; citations -> cited; terminal
cited      terminal
terminal   nothing
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    IDLE = "idle"
    STARTED = "started"
    PINGING = "pinging"
    STREAMING = "streaming"
    CITED = "cited"
    TERMINAL = "terminal"

    @property
    def pings(self) -> bool:
        """Whether silence is filled with `ping` events; later it is filled with comments, which parsers ignore."""
        return self in (Phase.STARTED, Phase.PINGING)


class GrammarError(Exception):
    """An event was produced where the grammar does not allow it: a fault of the producer."""


_CONTENT = {"delta": Phase.STREAMING, "tool": Phase.STREAMING}
_END = {"done": Phase.TERMINAL, "error": Phase.TERMINAL}
_LATER = _CONTENT | _END | {"restart": Phase.STARTED, "citations": Phase.CITED}
_NEXT: dict[Phase, dict[str, Phase]] = {
    Phase.IDLE: {"stream_started": Phase.STARTED} | _END,
    Phase.STARTED: {"ping": Phase.PINGING} | _LATER,
    Phase.PINGING: {"ping": Phase.PINGING} | _LATER,
    Phase.STREAMING: _LATER,
    Phase.CITED: _END,
    Phase.TERMINAL: {},
}


def advance(phase: Phase, event: str) -> Phase:
    """The phase after `event`.

    Raises:
        GrammarError: `event` cannot follow here.
    """
    try:
        return _NEXT[phase][event]
    except KeyError:
        raise GrammarError(f"{event} cannot follow in phase {phase}") from None
