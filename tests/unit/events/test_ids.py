"""Event ids and cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.ids import EntryId, ReplayId, opening, parse_cursor

numbers = st.integers(0, 10**10 - 1)
entry_ids = st.builds(EntryId, numbers, numbers)


@given(entry_ids)
def test_an_entry_id_survives_the_wire(entry_id: EntryId) -> None:
    assert parse_cursor(str(entry_id)) == entry_id


@given(st.integers(1, 9))
def test_a_replay_id_survives_the_wire(position: int) -> None:
    assert parse_cursor(str(ReplayId(position))) == ReplayId(position)


@given(entry_ids)
def test_ids_grow_along_the_log(entry_id: EntryId) -> None:
    """The next entry, and whatever opens the next attempt, comes after."""
    assert entry_id < entry_id.next < opening(entry_id.attempt + 1)


@pytest.mark.parametrize("text", [None, ""])
def test_no_cursor_means_from_the_start(text: str | None) -> None:
    assert parse_cursor(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "1",
        "1-",
        "-1",
        "1-1-1",
        "1 -1",
        "12345678901-1",
        "1-12345678901",
        "s-0",
        "s-10",
        "S-1",
        "s-",
        "\uff11-1",
        "1-1\n",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an entry id"):
        parse_cursor(text)
