"""Tools, citations and summaries through the whole product."""

from __future__ import annotations

import httpx

from tests.support.deployment import Deployment
from tests.support.turns import ask, create_chat, new_marker, scripted

CALL = {"name": "web_search", "details": {}}
PAGE = {"type": "url_citation", "url": "https://example.org/", "title": "Example", "start_index": 0, "end_index": 3}


async def test_a_web_search_is_shown_counted_and_cited(client: httpx.AsyncClient, product: Deployment) -> None:
    marker = new_marker()
    script = scripted(marker, text="The answer.", tools=[CALL], citations=[PAGE])
    turn = await ask(client, script, web_search={"enabled": True})
    assert [event.name for event in turn.events if event.name != "delta"] == [
        *("stream_started", "tool", "tool"),
        *("citations", "done"),
    ]
    (request,) = product.provider_requests(marker)
    assert request["body"]["tools"] == [{"type": "web_search", "search_context_size": "low"}]
    assert request["body"]["metadata"]["feature"] == "web_search"


async def test_the_third_search_ends_the_turn(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted("?", text="Never.", tools=[CALL] * 3), web_search={"enabled": True})
    assert [event.name for event in turn.events] == ["stream_started", *["tool"] * 4, "error"]
    assert turn.terminal.data["code"] == "web_search_calls_exceeded"


async def test_a_second_turn_is_told_of_the_first(client: httpx.AsyncClient, product: Deployment) -> None:
    chat_id, marker = await create_chat(client), new_marker()
    await ask(client, scripted("first", text="One."), chat_id=chat_id)
    await ask(client, scripted(marker, text="Two."), chat_id=chat_id)
    (request,) = product.provider_requests(marker)
    assert [item["role"] for item in request["body"]["input"]] == ["user", "assistant", "user"]
    assert request["body"]["input"][1]["content"] == [{"type": "output_text", "text": "One."}]
