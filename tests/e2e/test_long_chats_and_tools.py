"""Tools, citations and summaries through the whole product."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import httpx

from shared.embedded.ports import PortPicker
from shared.turns.context import SUMMARY_PREAMBLE
from tests.support.catalogs import MINI, acceptance_catalog
from tests.support.deployment import Deployment, deployment
from tests.support.turns import ask, create_chat, list_messages, new_marker, scripted
from tests.support.waiting import wait_until

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


async def test_62_a_long_chat_is_summarized(database_url: str, spare_valkey_url: str) -> None:
    """Once the context is a hundredth full, later turns are sent a summary instead of what it covers."""
    with deployment(
        database_url=database_url,
        valkey_url=spare_valkey_url,
        apis=1,
        workers=1,
        THREAD_SUMMARY_WORKER__COMPRESSION_THRESHOLD_PCT="1",
    ) as product:
        async with product.client() as client:
            chat_id, first = await create_chat(client), new_marker()
            await ask(client, scripted(f"{first} {'long ' * 1_000}", text="One."), chat_id=chat_id)
            texts: list[str] = []

            async def is_summarized() -> bool:
                marker = new_marker()
                await ask(client, scripted(marker, text="Two."), chat_id=chat_id)
                (request,) = product.provider_requests(marker)[-1:]
                texts[:] = [item["content"][0]["text"] for item in request["body"]["input"]]
                return texts[0].startswith(SUMMARY_PREAMBLE)

            await wait_until(is_summarized, message="no turn was sent a summary")
            told = (await ask(client, "And now?", chat_id=chat_id)).events[0].data
            assert told["thread_summary_applied"]["token_estimate"] > 0
            elsewhere = (await ask(client, "And here?")).events[0].data
            assert "thread_summary_applied" not in elsewhere
            assert not any(text.startswith("@script") and first in text for text in texts)
            assert first in (await list_messages(client, chat_id))[0]["content"]
            (asked,) = [
                request
                for request in product.provider_requests(first)
                if request["body"]["metadata"]["request_type"] == "summary"
            ]
            assert asked["body"]["stream"] is False
            assert asked["body"]["user"].endswith(":system")


async def test_63_a_summary_that_fails_changes_nothing(database_url: str, spare_valkey_url: str) -> None:
    """Nobody answers where summaries are asked for: it ends as a dead letter, and the chat goes on as it was."""

    def with_a_dead_provider(*, provider_port: int) -> dict[str, Any]:
        tree = acceptance_catalog(provider_port=provider_port)
        tree["providers"]["dead"] = tree["providers"]["openai"] | {"port": PortPicker().pick()}
        for model in tree["model_catalog"]:
            if model["id"] == MINI:
                model["provider_id"] = "dead"
        return tree

    with deployment(
        database_url=database_url,
        valkey_url=spare_valkey_url,
        apis=1,
        workers=1,
        make_catalog=with_a_dead_provider,
        THREAD_SUMMARY_WORKER__COMPRESSION_THRESHOLD_PCT="1",
        THREAD_SUMMARY_WORKER__MAX_ATTEMPTS="1",
        THREAD_SUMMARY_WORKER__SUMMARY_MODEL_ID=MINI,
    ) as product:
        async with product.client() as client:
            chat_id, marker = await create_chat(client), new_marker()
            await ask(client, scripted("long " * 1_000, text="One."), chat_id=chat_id)
            before = await list_messages(client, chat_id)
            database = await asyncpg.connect(database_url)
            try:
                await wait_until(
                    lambda: database.fetchval(
                        "SELECT id FROM outbox_dead_letters WHERE queue = 'thread_summary' AND partition_key = $1",
                        chat_id,
                    ),
                    message="the summary was not given up",
                )
                assert not await database.fetchval(
                    "SELECT count(*) FROM messages WHERE chat_id = $1 AND is_compressed", UUID(chat_id)
                )
            finally:
                await database.close()
            assert await list_messages(client, chat_id) == before
            started = (await ask(client, scripted(marker, text="Two."), chat_id=chat_id)).events[0].data
            assert "thread_summary_applied" not in started
            (request,) = product.provider_requests(marker)
            assert [item["role"] for item in request["body"]["input"]] == ["user", "assistant", "user"]
