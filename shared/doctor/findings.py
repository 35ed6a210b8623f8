"""What a check has found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, and will bite one day."""
    FAIL = "fail"
    """It does not work, or loses something."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the result: what was looked at, what was seen there, and what to change."""

    check: str
    status: Status
    seen: str
    change: str = ""

    @property
    def document(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


def ok(check: str, seen: str) -> Finding:
    return Finding(check, Status.OK, seen)


def warn(check: str, seen: str, change: str) -> Finding:
    return Finding(check, Status.WARN, seen, change)


def fail(check: str, seen: str, change: str) -> Finding:
    return Finding(check, Status.FAIL, seen, change)
