"""An answer of 20 000 tokens, and a page that does not notice."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count, islice

import pytest
from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKENS = 20_000
# Five times the pace that a page has to bear, so that the test is short.
TOKENS_A_SECOND = 1_000

# From now on, in milliseconds: the length of tasks that take more than 50, and the time between frames. Both are what
# somebody notices who scrolls or types meanwhile.
WATCH = """() => {
  const watched = window.watched = { tasks: [], frames: [] };
  new PerformanceObserver(list => {
    for (const { duration } of list.getEntries()) watched.tasks.push(duration);
  }).observe({ type: 'longtask' });
  let last = performance.now();
  requestAnimationFrame(function next(now) {
    watched.frames.push(now - last);
    last = now;
    requestAnimationFrame(next);
  });
}"""


def markdown(tokens: int) -> str:
    """Every kind of block, again and again; its words are numbered."""
    numbers = count()

    def words(number: int) -> str:
        return " ".join(f"w{word}" for word in islice(numbers, number))

    blocks: list[str] = []
    while len(" ".join(blocks).split()) < tokens:
        blocks += [
            f"## {words(4)}",
            f"{words(60)} **{words(3)}** {words(80)} `{words(2)}` {words(40)} [{words(2)}](https://example.com).",
            "\n".join(f"- {words(12)}" for _ in range(8)),
            "```python\n" + "\n".join(f"{words(1)} = {words(1)}({words(2)})" for _ in range(80)) + "\n```",
            "| a | b | c |\n|---|---|---|\n"
            + "\n".join(f"| {words(2)} | {words(2)} | {words(2)} |" for _ in range(10)),
            words(800),
            f"> {words(30)}",
        ]
    return "".join(re.findall(r"\S+\s*", "\n\n".join(blocks))[:tokens])


async def test_the_page_stays_responsive(
    product: Deployment, page: ChatPage, record_property: Callable[[str, object], None]
) -> None:
    """Watched after the first second. Other work on the machine may delay some tasks, but never most of them."""
    text = markdown(TOKENS)
    product.queue_scripts({"match": "very long", "text": text, "rate": TOKENS_A_SECOND})
    await page.ask("Please be very long")
    await page.expect_words(TOKENS_A_SECOND)
    await page.page.evaluate(WATCH)
    await expect(page.latest).to_have_attribute("data-status", "done", timeout=90_000)
    watched = await page.page.evaluate("window.watched")
    assert re.findall(r"w\d+", await page.answer.inner_text()) == re.findall(r"w\d+", text)

    tasks, frames = watched["tasks"], sorted(watched["frames"])
    median, slow = frames[len(frames) // 2], frames[len(frames) * 95 // 100]
    found = {"median frame": median, "95 % of frames": slow, "long tasks": len(tasks), "in long tasks": sum(tasks)}
    for name, value in found.items():
        record_property(name, value)
    assert slow < 200, found
    assert sum(tasks) < sum(frames) / 4, found
