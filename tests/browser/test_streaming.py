"""Asking, reading, and being seen to lose nothing."""

from __future__ import annotations

import asyncio
from itertools import accumulate

import pytest
from playwright.async_api import BrowserContext, expect

from tests.browser.chat_page import ChatPage, Witness
from tests.support.deployment import Deployment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")


def an_answer(product: Deployment, marker: str, *, words: int = 60, rate: float = 20) -> str:
    """Have the question with `marker` answered by numbered words, which show any that is missing or comes twice."""
    text = " ".join(f"{marker}-{number}" for number in range(1, words + 1))
    product.queue_scripts({"match": marker, "text": text, "rate": rate})
    return text


async def test_an_answer_streams(product: Deployment, page: ChatPage) -> None:
    text = an_answer(product, "stream")
    await page.ask("Please stream")
    await page.expect_words(3)
    assert len(await page.words()) < 60
    await page.expect_status("done")
    assert await page.words() == text.split()
    await expect(page.page.get_by_role("heading", level=1)).to_have_text("Please stream")


async def test_a_reload_finds_the_running_turn(product: Deployment, page: ChatPage) -> None:
    text = an_answer(product, "reload")
    await page.ask("Please reload")
    await page.expect_words(5)
    await page.page.reload()
    await page.expect_words(10)
    await page.expect_status("writing")
    await page.expect_status("done")
    assert await page.words() == text.split()
    await expect(page.turns).to_have_count(1)


async def test_two_tabs_show_the_same(product: Deployment, page: ChatPage) -> None:
    """The second was there before the question: it is told of the turn, and follows it."""
    await page.ask("Something to begin with")
    await page.expect_status("done")
    other = await page.duplicate()
    text = an_answer(product, "tabs")
    await page.ask("Please show it in both tabs")
    await other.expect_words(5)
    await other.expect_status("writing")
    for tab in (page, other):
        await tab.expect_status("done")
        assert await tab.words() == text.split()
        await expect(tab.turns).to_have_count(2)


async def test_the_second_tab_can_stop(product: Deployment, page: ChatPage) -> None:
    text = an_answer(product, "halt", words=400)
    await page.ask("Please do not halt")
    await page.expect_words(5)
    other = await page.duplicate()
    await other.expect_words(5)
    await other.stop()
    for tab in (page, other):
        await tab.expect_word("Stopped")
    stopped = await page.words()
    assert await other.words() == stopped
    assert text.split()[: len(stopped)] == stopped
    await other.page.reload()
    await other.expect_word("Stopped")
    assert await other.words() == stopped


async def test_offline_for_a_while(product: Deployment, page: ChatPage, context: BrowserContext) -> None:
    """The connection is lost and the words say so; afterwards the answer goes on where it was."""
    text = an_answer(product, "offline", words=160)
    await page.ask("Please survive being offline")
    await page.expect_words(5)
    await context.set_offline(True)
    await page.expect_word("Reconnecting")
    shown = await page.words()
    chat = f"/chats/{page.chat_id}"
    async with product.client() as client:

        async def has_gone_on() -> bool:
            """At least five seconds of words have been written meanwhile."""
            request_id = (await client.get(chat)).json()["running_request_id"]
            events = client.stream("GET", f"{chat}/turns/{request_id}/events")
            count = 0
            async with events as response:
                async for line in response.aiter_lines():
                    count += line.startswith("event: delta")
                    if count >= len(shown) + 100:
                        return True
            return False

        await wait_until(has_gone_on, timeout=30)
    assert await page.words() == shown
    await context.set_offline(False)
    await page.expect_word("Resumed")
    await page.expect_status("done")
    assert await page.words() == text.split()


# Notes when each event stream of a tab was asked for, and when it was let go: by the clock that all tabs share, since
# what a browser reports of several tabs comes in any order.
NOTE_STREAMS = """
  const streams = window.streams = [];
  const plain = window.fetch;
  window.fetch = (input, init) => {
    if (/\\/(events|messages:stream)$/.test(input)) {
      const stream = { from: Date.now(), to: Infinity };
      streams.push(stream);
      init.signal.addEventListener('abort', () => (stream.to = Date.now()));
    }
    return plain(input, init);
  };
"""


async def most_streams(tabs: list[ChatPage]) -> int:
    """How many event streams there were at a time, over all tabs."""
    found = [stream for tab in tabs for stream in await tab.page.evaluate("window.streams")]
    changes = sorted([(stream["from"], 1) for stream in found] + [(stream["to"], -1) for stream in found])
    return max(accumulate(change for _, change in changes))


async def test_many_tabs_leave_room_for_requests(
    product: Deployment, page: ChatPage, context: BrowserContext, witness: Witness
) -> None:
    """Eight tabs with eight running turns, more than a browser opens connections: a ninth works all the same."""
    await context.add_init_script(NOTE_STREAMS)
    await page.page.reload()
    tabs = [page, *[await ChatPage.open(context, product.apis[0].url) for _ in range(7)]]
    texts = [an_answer(product, f"many{number}", words=150, rate=10) for number in range(len(tabs))]
    # All at once: questions, too, would fill a browser's connections.
    await asyncio.gather(*[tab.ask(f"Please many{number}") for number, tab in enumerate(tabs)])
    ninth = await ChatPage.open(context, product.apis[0].url)
    await ninth.ask("And another question")
    await ninth.expect_status("done")
    statuses = [await tab.latest.get_attribute("data-status") for tab in tabs]
    assert statuses.count("done") < len(tabs), "the others should be running still"
    for tab, text in zip(tabs, texts, strict=True):
        await tab.expect_status("done")
        assert await tab.words() == text.split()
    # Four that read, and one that asks: of the six connections to a server, one is left for all other requests.
    assert await most_streams([*tabs, ninth]) <= 5
