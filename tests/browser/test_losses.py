"""What dies under an answer, and what the page says of it."""

from __future__ import annotations

import pytest

from tests.browser.chat_page import ChatPage
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_api_dies_in_the_middle(product: Deployment, page: ChatPage) -> None:
    """The answer goes on being written, and the page reads on where it was."""
    text = " ".join(f"api-{number}" for number in range(300))
    product.queue_scripts({"match": "api dies", "text": text, "rate": 20})
    await page.ask("What if the api dies?")
    await page.expect_words(5)
    product.apis[0].kill()
    await page.expect_word("Reconnecting")
    product.restart_api(product.apis[0])
    await page.expect_word("Resumed")
    await page.expect_status("done")
    assert await page.words() == text.split()


async def test_the_worker_dies_in_the_middle(product: Deployment, page: ChatPage) -> None:
    """Another takes the turn up, and begins anew: the page drops what it has, and ends with the right text."""
    script = {"match": "worker dies", "rate": 20}
    text = " ".join(f"worker-{number}" for number in range(100))
    product.queue_scripts(script | {"text": "lost " * 200}, script | {"text": text})
    await page.ask("What if the worker dies?")
    await page.expect_words(5)
    product.start_worker()
    product.workers.pop(0).kill()
    await page.expect_word("Restarted")
    await page.expect_status("done")
    assert await page.words() == text.split()
