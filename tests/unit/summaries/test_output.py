"""What of an answer is the summary, whatever the answer holds."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.summaries.output import parse_summary

TAGS = ("<analysis>", "</analysis>", "<summary>", "</summary>", "<Summary>", "</ANALYSIS>")
plain = st.text(st.characters(exclude_characters="<>"), max_size=20)
answers = st.lists(st.sampled_from(TAGS) | plain | st.sampled_from(["<ana", "lysis>", "\n\n\n\n", "<"])).map("".join)


@pytest.mark.parametrize(
    ("answer", "summary"),
    [
        ("<analysis>hm</analysis><summary>Short.</summary>", "Short."),
        ("<ANALYSIS>\nhm\n</Analysis>\n\n<Summary>\nShort.\n</SUMMARY>\n", "Short."),
        ("<analysis>the <summary> comes next</analysis><summary>Short.</summary> Bye.", "Short."),
        ("<analysis>hm</analysis>\nShort.", "Short."),
        ("Short.", "Short."),
        ("<summary>1\n\n\n\n\n2\n\n3</summary>", "1\n\n2\n\n3"),
        ("</analysis><summary>Short.</summary>", "Short."),
        ("<summary>cut off", ""),
        ("<analysis>cut off", ""),
        ("Short.</summary>", ""),
        ("<ana<analysis>hm</analysis>lysis>", ""),
        ("<summary> \n </summary>", ""),
        ("", ""),
    ],
)
def test_answers(answer: str, summary: str) -> None:
    assert parse_summary(answer) == summary


@given(answers)
def test_no_tag_and_no_gap_is_left_of_any_answer(answer: str) -> None:
    summary = parse_summary(answer)
    assert not re.search(r"</?(analysis|summary)>", summary, re.IGNORECASE)
    assert "\n\n\n" not in summary
    assert summary == summary.strip()


@given(plain, plain)
def test_a_well_formed_answer_gives_its_summary(analysis: str, summary: str) -> None:
    answer = f"<analysis>{analysis}</analysis>\n<summary>{summary}</summary>"
    assert parse_summary(answer) == re.sub(r"\n{3,}", "\n\n", summary).strip()


def test_a_hostile_answer_costs_one_pass() -> None:
    """Quadratic work would take minutes."""
    assert parse_summary("<analysis>" * 200_000) == ""
