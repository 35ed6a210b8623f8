"""Scripts, the queue and directives, without a server."""

import json
from typing import Any

import pytest

from api.demo_provider.generation import Generation, answer_of, split_words
from api.demo_provider.script import (
    InvalidScript,
    Script,
    ScriptQueue,
    canned_text,
    find_directive,
    parse_script,
    parse_scripts,
)
from api.demo_provider.wire import dump_json, new_id, sse_frame


def a_generation(text: str = "hello") -> Generation:
    return Generation(body={}, user_text=text, prompt_characters=len(text))


def test_defaults_of_an_empty_script() -> None:
    """An empty script speaks the canned answer at 30 deltas a second and completes."""
    script = parse_script({})
    assert (script.rate, script.delay_ms, script.terminal) == (30, 0, "completed")
    assert "".join(answer_of(a_generation("why?"), script).deltas) == canned_text("why?")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"txt": "a"}, "txt"),
        ({"text": 5}, "text"),
        ({"tokens": "5"}, "tokens"),
        ({"tokens": True}, "tokens"),
        ({"tokens": -1}, "tokens"),
        ({"rate": -1}, "rate"),
        ({"terminal": "explode"}, "terminal"),
        ({"usage": {"input_tokens": 1, "cost": 2}}, "usage.cost"),
        ({"tools": [{"name": "shell"}]}, "tools.0.name"),
        ({"events": [{"evnt": "x"}]}, "events.0.evnt"),
        ({"http_status": 99}, "http_status"),
        ({"body": "x"}, "http_status"),
        ({"headers": {"a\r\nb": "c"}}, "headers"),
        ({"headers": {"a": "b\nc"}}, "headers"),
        ({"headers": {"Content-Length": "3"}}, "headers"),
        ([], "script"),
    ],
)
def test_an_invalid_script_is_refused_by_name(value: Any, named: str) -> None:
    """Unknown members and wrong types are never ignored or converted."""
    with pytest.raises(InvalidScript, match=named):
        parse_script(value)


def test_scripts_are_accepted_all_or_none() -> None:
    """The message says which script of the array is wrong."""
    with pytest.raises(InvalidScript, match="script 1") as caught:
        parse_scripts([{"text": "fine"}, {"text": 1}])
    assert caught.value.where == "[1].text"
    with pytest.raises(InvalidScript, match="array"):
        parse_scripts({"text": "alone"})


def test_the_queue_serves_in_order_and_skips_what_does_not_match() -> None:
    """A script with `match` waits for its request; those behind it do not wait for it."""
    queue = ScriptQueue()
    for script in (Script(text="1", match="weather"), Script(text="2"), Script(text="3"), Script(text="4")):
        queue.add(script)
    taken = [queue.take("hi"), queue.take("the weather today"), queue.take("weather"), queue.take("x")]
    assert [script and script.text for script in taken] == ["2", "1", "3", "4"]
    assert queue.take("hi") is None
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('@script {"text":"a"}', ""),
        ('  @script{"text":"a"} what is {this}? ', "what is {this}?"),
        ('@script\n{\n"text": "a"\n}\nnext line', "next line"),
    ],
)
def test_a_directive_is_read_and_the_rest_is_the_question(text: str, question: str) -> None:
    """The JSON object ends the directive, wherever it ends."""
    found = find_directive(text)
    assert found is not None
    assert (found.script.text, found.question) == ("a", question)


@pytest.mark.parametrize("text", ["hi", "say @script {}", "@scripting is fun", "@scripts {}", ""])
def test_other_texts_are_not_directives(text: str) -> None:
    """Only `@script` as a word at the start is one."""
    assert find_directive(text) is None


@pytest.mark.parametrize(
    "text",
    ["@script", "@script please", "@script {", '@script {"a":1}', "@script [1]", '@script {"rate":NaN}',
     '@script {"body":' + "[" * 100_000],
)  # fmt: skip
def test_a_bad_directive_is_refused(text: str) -> None:
    """Neither a typing error nor hostile nesting is played as an ordinary question."""
    with pytest.raises(InvalidScript):
        find_directive(text)


@pytest.mark.parametrize("text", ["", " ", "a", "two words", "  lead", "tail  \n", "a\u2028b\u00a0c\r\n\r\nd"])
def test_words_concatenate_to_the_text(text: str) -> None:
    """Splitting loses nothing."""
    assert "".join(split_words(text)) == text


def test_a_word_keeps_its_following_space() -> None:
    """One delta per word."""
    assert split_words("one two  three") == ["one ", "two  ", "three"]


def test_tokens_and_usage() -> None:
    """`tokens` takes the place of `text`; usage is counted where it is not given."""
    answer = answer_of(a_generation(), parse_script({"tokens": 3, "text": "x", "usage": {"input_tokens": 0}}))
    assert (answer.text, answer.input_tokens, answer.output_tokens) == ("w0 w1 w2 ", 0, 3)
    counted = answer_of(a_generation("x" * 9), parse_script({"text": ""}))
    assert (counted.text, counted.input_tokens, counted.output_tokens) == ("", 3, 1)


def test_the_canned_answer_is_short() -> None:
    """A long question is quoted in part."""
    assert "“why is\nit?".replace("\n", " ") in canned_text("why is\nit?")
    assert len(canned_text("long " * 1000)) < 400


def test_wire_forms() -> None:
    """Ids hold a digit; frames survive line breaks; what orjson refuses is still sent."""
    assert all(any(char.isdigit() for char in new_id("msg_")[4:]) for _ in range(50))
    assert sse_frame("e", "a\nb") == b"event: e\ndata: a\ndata: b\n\n"
    assert sse_frame(None, None) == b"\n\n"
    assert json.loads(dump_json({"a": "\ud800", "b": 2**70})) == {"a": "\ud800", "b": 2**70}
