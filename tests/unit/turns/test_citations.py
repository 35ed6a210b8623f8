"""What clients are told of an answer's sources, whatever the provider annotates."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.base import Completed, IncompleteReason
from worker.turns.citations import citations_of, cited_file_ids, count_by_source
from worker.turns.files import CitedFile

ANSWER = "The sky is blue."
ATTACHMENT = UUID("00000000-0000-4000-8000-000000000001")
FILES = {"file-1": CitedFile(ATTACHMENT, "sky.txt")}
WEB = {"type": "url_citation", "url": "https://example.org/sky", "title": "Sky", "start_index": 4, "end_index": 7}


def completed(*annotations: dict[str, Any], reason: IncompleteReason | None = None) -> Completed:
    return Completed("resp_1", None, reason, annotations)


def items(*annotations: dict[str, Any], reason: IncompleteReason | None = None) -> list[dict[str, Any]]:
    found = citations_of(completed(*annotations, reason=reason), answer=ANSWER, files=FILES)
    return [dict(item) for item in found]


def test_a_page() -> None:
    assert items(WEB) == [
        {
            "source": "web",
            "title": "Sky",
            "url": "https://example.org/sky",
            "snippet": "sky",
            "span": {"start": 4, "end": 7},
        }
    ]


def test_a_file_is_named_as_it_was_uploaded() -> None:
    assert items({"type": "file_citation", "file_id": "file-1", "index": 3, "filename": "provider.bin"}) == [
        {"source": "file", "title": "sky.txt", "attachment_id": str(ATTACHMENT), "snippet": ""}
    ]


@pytest.mark.parametrize(
    "annotation",
    [
        {"type": "file_citation", "file_id": "file-2"},
        {"type": "file_citation"},
        {"type": "container_file_citation", "file_id": "file-1"},
        {"type": "file_path", "file_id": "file-1"},
        {"type": "url_citation"},
        {"type": "url_citation", "url": "javascript:alert(1)"},
        {"type": "url_citation", "url": "http://[bad"},
        {},
    ],
)
def test_what_means_nothing_to_clients_is_left_out(annotation: dict[str, Any]) -> None:
    assert items(annotation, WEB) == items(WEB)


def test_the_annotation_s_own_text_is_the_snippet() -> None:
    assert items(WEB | {"text": "a sky"})[0]["snippet"] == "a sky"


@pytest.mark.parametrize("indexes", [{"start_index": 4}, {"end_index": 7}, {"start_index": 7, "end_index": 4}, {}])
def test_half_a_place_is_none(indexes: dict[str, int]) -> None:
    page = {key: value for key, value in WEB.items() if not key.endswith("_index")}
    (item,) = items(page | indexes)
    assert "span" not in item
    assert item["snippet"] == ""


def test_an_answer_that_was_cut_cites_nothing() -> None:
    assert items(WEB, reason="max_tokens") == []
    assert cited_file_ids(completed({"type": "file_citation", "file_id": "file-1"}, reason="other")) == frozenset()


def test_only_cited_files_are_looked_up() -> None:
    found = cited_file_ids(
        completed(WEB, {"type": "file_citation", "file_id": "file-9"}, {"type": "file_citation", "file_id": 7})
    )
    assert found == {"file-9"}


def test_sources_are_counted() -> None:
    both = citations_of(completed(WEB, {"type": "file_citation", "file_id": "file-1"}, WEB), answer=ANSWER, files=FILES)
    assert count_by_source(both) == {"web": 2, "file": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 50) | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2)
)
found_annotations: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"type": st.sampled_from(["url_citation", "file_citation", "other"])},
    optional={
        "url": st.sampled_from(["https://example.org", "http://a.b/c", "x"]) | json_values,
        "title": json_values,
        "text": json_values,
        "file_id": st.sampled_from(["file-1", "file-2"]) | json_values,
        "start_index": json_values,
        "end_index": json_values,
    },
)


@given(st.lists(found_annotations, max_size=5))
def test_every_item_has_the_promised_members(found: list[dict[str, Any]]) -> None:
    for item in items(*found):
        own = {"web": {"url"}, "file": {"attachment_id"}}[item["source"]]
        assert {"source", "title", "snippet"} | own <= set(item) <= {"source", "title", "snippet", "span"} | own
        assert item["title"]
        assert isinstance(item["snippet"], str)
        assert all(isinstance(index, int) for index in item.get("span", {}).values())
        orjson.dumps(item)
