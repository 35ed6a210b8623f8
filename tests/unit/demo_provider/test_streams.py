"""What a caller sees: streams of both APIs over a real socket."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.unit.demo_provider.driver import Provider, spoken

CHAT = "/v1/chat/completions"


def a_directive(question: str = "hi", **script: Any) -> str:
    """The text of a user who scripts his own answer."""
    return f"@script {json.dumps({'rate': 0, **script})} {question}"


@pytest.mark.parametrize("path", ["/v1/responses", "/openai/v1/responses"])
async def test_a_stream_has_the_events_of_the_real_one_in_order(provider: Provider, path: str) -> None:
    """Sequence numbers count every event; the text is whole in each place that repeats it."""
    frames = await provider.frames(a_directive(text="Hello big world"), path=path)
    kinds = [frame.event for frame in frames]
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [frame.json["type"] for frame in frames] == kinds
    assert [frame.json["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert spoken(frames) == ["Hello ", "big ", "world"]
    response = frames[-1].json["response"]
    assert response["output"][0]["content"][0]["text"] == "Hello big world"
    assert response["id"] == frames[0].json["response"]["id"]
    assert response["usage"]["input_tokens"] > 0
    assert response["usage"]["output_tokens"] > 0


async def test_tokens_are_numbered_words(provider: Provider) -> None:
    """Delta i is `w{i} `, also beyond one batch."""
    frames = await provider.frames(a_directive(tokens=200))
    assert spoken(frames) == [f"w{index} " for index in range(200)]
    record = await provider.record(lambda record: record["finished_at"])
    assert record["deltas_sent"] == 200
    assert record["received_at"] <= record["first_delta_at"] <= record["finished_at"]


async def test_scripted_usage_and_citations_are_reported(provider: Provider) -> None:
    """Annotations are in the final response, and announced before it."""
    citation = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 0, "end_index": 1}
    usage = {"input_tokens": 7, "output_tokens": 9}
    frames = await provider.frames(a_directive(text="x", usage=usage, citations=[citation]))
    response = frames[-1].json["response"]
    assert response["output"][0]["content"][0]["annotations"] == [citation]
    assert {name: response["usage"][name] for name in usage} == usage
    announced = [frame.json for frame in frames if frame.event == "response.output_text.annotation.added"]
    assert [event["annotation"] for event in announced] == [citation]


@pytest.mark.parametrize(
    ("name", "details", "steps", "shown"),
    [
        ("file_search", {"files_searched": 2}, ["in_progress", "searching"], {}),
        ("file_search", {"results": [{"file_id": "f"}]}, ["in_progress", "searching"],
         {"results": [{"file_id": "f"}]}),
        ("web_search", {}, ["in_progress", "searching"], {}),
        ("code_interpreter", {"output": "42\n"}, ["in_progress", "interpreting"],
         {"outputs": [{"type": "logs", "logs": "42\n"}]}),
    ],
)  # fmt: skip
async def test_tools_are_played_before_the_text(
    provider: Provider, name: str, details: dict[str, Any], steps: list[str], shown: dict[str, Any]
) -> None:
    """A tool call has its own output item, and the message comes after it."""
    frames = await provider.frames(a_directive(text="x", tools=[{"name": name, "details": details}]))
    kinds = [frame.event for frame in frames]
    call = f"response.{name}_call"
    assert kinds[2:7] == [
        "response.output_item.added", *(f"{call}.{step}" for step in steps), f"{call}.completed",
        "response.output_item.done",
    ]  # fmt: skip
    completed = frames[5].json
    assert completed.items() >= shown.items()
    if "files_searched" in details:
        assert len(completed["results"]) == details["files_searched"]
    output = frames[-1].json["response"]["output"]
    assert [item["type"] for item in output] == [f"{name}_call", "message"]
    assert frames[7].json["output_index"] == 1


async def test_the_queue_goes_before_a_directive_and_streams_only(provider: Provider) -> None:
    """A request that does not stream gets the canned answer and leaves the queue alone."""
    await provider.queue({"text": "queued", "rate": 0})
    async with provider.ask("why?", stream=False) as response:
        whole = await response.json()
    assert "why?" in whole["output"][0]["content"][0]["text"]
    assert spoken(await provider.frames(a_directive(text="own"))) == ["queued"]
    assert spoken(await provider.frames(a_directive(text="own"))) == ["own"]


async def test_match_looks_at_the_last_user_text(provider: Provider) -> None:
    """Earlier messages and the assistant's do not count."""
    await provider.queue({"text": "sun", "match": "weather", "rate": 0}, {"text": "other", "rate": 0})
    parts = [{"type": "input_text", "text": "the weather?"}, {"type": "input_image", "file_id": "file-1"}]
    history = [
        {"type": "message", "role": "user", "content": parts},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "weather"}]},
        {"type": "message", "role": "user", "content": "thanks"},
    ]
    assert spoken(await provider.frames("", input=history)) == ["other"]
    assert spoken(await provider.frames("", input=history[:2])) == ["sun"]


async def test_the_canned_answer_quotes_the_question(provider: Provider) -> None:
    """Without a script; and with one that says nothing about the text, minus the directive."""
    await provider.queue({"rate": 0})
    text = "".join(spoken(await provider.frames(a_directive("why is it so?"))))
    assert "“why is it so?”" in text
    assert "@script" not in text


async def test_pacing_does_not_drift(provider: Provider) -> None:
    """n deltas take (n - 1)/rate, however late single ones were; the delay comes before the first."""
    await provider.frames(a_directive(tokens=41, rate=200, delay_ms=100))
    record = await provider.record(lambda record: record["finished_at"])
    assert record["first_delta_at"] - record["received_at"] >= 0.095
    assert 0.195 <= record["finished_at"] - record["first_delta_at"] < 0.4


async def test_chat_completions_stream(provider: Provider) -> None:
    """Role, content, finish reason, usage as asked for, and the end mark."""
    options = {"include_usage": True}
    frames = await provider.frames(a_directive(text="Hello world"), path=CHAT, stream_options=options)
    assert frames[-1].data == "[DONE]"
    chunks = [frame.json for frame in frames[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hello "}, {"content": "world"}, {}]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert len({chunk["id"] for chunk in chunks}) == 1
    plain = await provider.frames(a_directive(text="Hello"), path=CHAT)
    assert all("usage" not in frame.json for frame in plain[:-1])


async def test_chat_completions_ends(provider: Provider) -> None:
    """Incomplete is a finish reason; a failure is an error object and no end mark."""
    cut = await provider.frames(a_directive(text="x", terminal="incomplete"), path=CHAT)
    assert cut[-2].json["choices"][0]["finish_reason"] == "length"
    error = {"code": "boom", "message": "broken"}
    failed = await provider.frames(a_directive(text="x", terminal="failed", error=error), path=CHAT)
    assert failed[-1].json["error"].items() >= error.items()


async def test_chat_completions_whole(provider: Provider) -> None:
    """The canned answer in the API's form."""
    async with provider.ask("why?", path=CHAT, stream=False) as response:
        whole = await response.json()
    assert "why?" in whole["choices"][0]["message"]["content"]
    assert whole["usage"]["total_tokens"] > 0


async def test_the_official_sdk_reads_both_apis(provider: Provider) -> None:
    """Its typed events and objects hold what was scripted."""
    async with AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="sk-test", max_retries=0) as client:
        question = a_directive(text="Hello world", tools=[{"name": "web_search"}])
        events = [event async for event in await client.responses.create(model="m", input=question, stream=True)]
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Hello world"
        last = events[-1]
        assert last.type == "response.completed"
        assert last.response.output_text == "Hello world"
        assert last.response.usage is not None

        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": question}], stream=True,
                stream_options={"include_usage": True},
            )
        ]  # fmt: skip
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello world"
        assert chunks[-1].usage is not None

        whole = await client.responses.create(model="m", input="why?")
        assert "why?" in whole.output_text
        models = await client.models.list()
        assert [model.object for model in models.data] == ["model", "model"]
