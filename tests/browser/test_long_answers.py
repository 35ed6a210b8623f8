"""An answer of 20 000 tokens, and a page that does not notice."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count, islice

import pytest
from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.tasks import traced_tasks
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKENS = 20_000
# Five times the pace that a page has to bear, so that the test is short.
TOKENS_A_SECOND = 1_000

LONG_TASK_MS = 50

# In milliseconds: tasks that take more than 50, as the Performance API has them, and the time between frames.
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
    """After the first second no task is long.

    The Performance API goes by the clock on the wall, and so counts a task of 5 ms whose thread waits 60 ms for a core.
    That says nothing about the page, so its findings are recorded, and held only to a bound that any machine can bear.
    What is asserted is the time that each task has had on a core, by the clock of its thread.
    """
    text = markdown(TOKENS)
    product.queue_scripts({"match": "very long", "text": text, "rate": TOKENS_A_SECOND})
    await page.ask("Please be very long")
    await page.expect_words(TOKENS_A_SECOND)
    async with traced_tasks(page.page) as traced:
        await page.page.evaluate(WATCH)
        await expect(page.latest).to_have_attribute("data-status", "done", timeout=90_000)
        watched = await page.page.evaluate("window.watched")
    assert re.findall(r"w\d+", await page.answer.inner_text()) == re.findall(r"w\d+", text)

    tasks, frames = watched["tasks"], sorted(watched["frames"])
    median, slow = frames[len(frames) // 2], frames[len(frames) * 95 // 100]
    found = {
        "median frame": median,
        "95 % of frames": slow,
        "long tasks on the wall": len(tasks),
        "longest task on a core": traced.longest.cpu,
    }
    for name, value in found.items():
        record_property(name, value)
    assert len(traced.all) > len(frames) / 2, "the trace is of another thread"
    assert traced.longest.cpu < LONG_TASK_MS, traced.longest
    assert slow < 200, found


# Cheaper than a locator, which looks at much of a page: that would be measured, too.
IS_AT_END = "() => document.querySelector('.turn .prose > .tail > p')?.textContent === 'The end.'"

BLOCKS = {
    "table": "| a | b |\n|---|---|\n" + "".join(f"| row {number} | **{number}** |\n" for number in range(1_000)),
    "list": "".join(f"- item {number} with *some* words\n" for number in range(2_000)),
    "quotation": "".join(f"> line {number} of it, with some words\n" for number in range(2_000)),
    "listing": "```\n" + "".join(f"line_{number} = call(a, b)\n" for number in range(3_000)) + "```\n",
    "paragraph": "Words without end, " * 5_000,
    "paragraph without spaces": "这是一个很长的段落没有空格。" * 3_000,
}


@pytest.mark.parametrize("kind", BLOCKS)
async def test_one_block_as_long_as_an_answer(product: Deployment, page: ChatPage, kind: str) -> None:
    """As fast as it comes: no block is rendered again as a whole for each piece that is added to it."""
    marker = f"nothing but a {kind}"
    product.queue_scripts({"match": marker, "text": f"{BLOCKS[kind]}\n\nThe end.", "rate": 0})
    await page.composer.fill(f"Please, {marker}")
    async with traced_tasks(page.page) as traced:
        await page.composer.press("Enter")
        await page.page.wait_for_function(IS_AT_END)
    assert traced.longest.cpu < LONG_TASK_MS, traced.longest
