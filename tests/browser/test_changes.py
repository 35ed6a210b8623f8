"""Having the last turn again, in other words, or not at all."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_retry_answers_again(product: Deployment, page: ChatPage) -> None:
    """What is being replaced goes at once; what is there in the end is what the server has."""
    script = {"match": "answer it again", "rate": 20}
    first, second = [" ".join(f"{name}-{number}" for number in range(30)) for name in ("first", "second")]
    product.queue_scripts(script | {"text": first}, script | {"text": second})
    await page.ask("Before that")
    await page.expect_status("done")
    await page.ask("Please answer it again")
    await page.expect_status("done")
    assert await page.words() == first.split()
    await page.button("Answer again").click()
    await page.expect_words(3)
    assert (await page.words())[0] == "second-0"
    for _ in range(2):
        await page.expect_status("done")
        await expect(page.answer).to_have_text(second)
        await expect(page.turns).to_have_count(2)
        await page.page.reload()


async def test_an_edit_asks_anew(product: Deployment, page: ChatPage) -> None:
    """Only the last question can be edited; Escape leaves it as it is."""
    product.queue_scripts(
        {"match": "grey cat", "text": "Ash.", "rate": 0}, {"match": "red cat", "text": "Fox.", "rate": 0}
    )
    await page.ask("Before that")
    await page.expect_status("done")
    await page.ask("A name for a grey cat?")
    await page.expect_status("done")
    edit, field = page.button("Edit the question"), page.page.get_by_label("Your question")
    await expect(edit).to_have_count(1)
    await edit.click()
    await field.fill("Something else")
    await field.press("Escape")
    await expect(page.latest.locator(".bubble")).to_have_text("A name for a grey cat?")
    await edit.click()
    await expect(field).to_be_focused()
    await field.fill("A name for a red cat?")
    await page.button("Ask again").click()
    for _ in range(2):
        await page.expect_status("done")
        await expect(page.latest.locator(".bubble")).to_have_text("A name for a red cat?")
        await expect(page.answer).to_have_text("Fox.")
        await expect(page.turns).to_have_count(2)
        await page.page.reload()


async def test_the_last_turn_can_be_deleted(page: ChatPage) -> None:
    for question in ("To be kept", "To be deleted"):
        await page.ask(question)
        await page.expect_status("done")
    await page.button("Delete the question and its answer").click()
    for _ in range(2):
        await expect(page.turns).to_have_count(1)
        await expect(page.latest.locator(".bubble")).to_have_text("To be kept")
        await page.page.reload()
