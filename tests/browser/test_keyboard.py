"""Without a mouse, and without seeing the page."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.chat_page import ChatPage
from tests.browser.test_streaming import an_answer
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

# What a screen reader is told from now on.
LISTEN = """() => {
  const region = document.querySelector('[aria-live=polite]');
  window.heard = [];
  new MutationObserver(() => window.heard.push(region.textContent)).observe(region, {
    childList: true, subtree: true, characterData: true });
}"""

# How much of the conversation is below what can be seen, in pixels.
BELOW = """() => {
  const { scrollHeight, scrollTop, clientHeight } = document.querySelector('.thread');
  return scrollHeight - scrollTop - clientHeight;
}"""


async def test_all_by_keyboard(product: Deployment, page: ChatPage) -> None:
    """Ask, stop, edit, ask again, delete: after each the focus is where one goes on."""
    keys = page.page.keyboard
    an_answer(product, "endless", words=400)
    product.queue_scripts({"match": "something short", "text": "Short.", "rate": 0})
    await keys.type("An endless answer")
    await keys.press("Enter")
    await page.expect_words(3)
    await keys.press("Escape")
    await page.expect_word("Stopped")
    await expect(page.composer).to_be_focused()

    await keys.press("ArrowUp")
    field = page.page.get_by_label("Your question")
    await expect(field).to_be_focused()
    await keys.press("Escape")
    await expect(page.composer).to_be_focused()
    await keys.press("ArrowUp")
    await field.fill("Rather something short")
    await keys.press("Enter")
    await page.expect_status("done")
    await expect(page.answer).to_have_text("Short.")
    await expect(page.composer).to_be_focused()

    await page.button("Answer again").focus()
    await keys.press("Enter")
    await page.expect_status("done")
    await expect(page.composer).to_be_focused()
    await page.button("Delete the question and its answer").focus()
    await keys.press("Enter")
    await expect(page.turns).to_have_count(0)
    await expect(page.composer).to_be_focused()


async def test_the_stop_button_hands_the_focus_on(product: Deployment, page: ChatPage) -> None:
    an_answer(product, "pressed", words=400)
    await page.ask("What if it is pressed?")
    await page.expect_words(3)
    await page.composer.press("Tab")
    while not await page.button("Stop").evaluate("button => button === document.activeElement"):
        await page.page.keyboard.press("Tab")
    await page.page.keyboard.press("Enter")
    await page.expect_word("Stopped")
    await expect(page.composer).to_be_focused()


async def test_a_dialog_gives_the_focus_back(page: ChatPage) -> None:
    await page.ask("To be deleted")
    await page.expect_status("done")
    await page.ask("And another")
    await page.expect_status("done")
    keys, opener = page.page.keyboard, page.button("Delete this chat")
    await opener.focus()
    await keys.press("Enter")
    await expect(page.button("Keep it")).to_be_focused()
    await keys.press("Enter")
    await expect(opener).to_be_focused()
    await _open_and_keep_and_open(page)
    await expect(page.button("Keep it")).to_be_focused()
    await keys.press("Tab")
    await keys.press("Enter")
    await expect(page.turns).to_have_count(0)
    await expect(page.composer).to_be_focused()
    await page.button("Keyboard shortcuts").focus()
    await keys.press("Enter")
    await expect(page.page.get_by_role("dialog")).to_be_visible()
    await keys.press("Escape")
    await expect(page.button("Keyboard shortcuts")).to_be_focused()


async def _open_and_keep_and_open(page: ChatPage) -> None:
    """In one task of the page: the event of the first dialog's end comes when the second one is there."""
    await page.page.evaluate(
        """async () => {
            const click = (text) => [...document.querySelectorAll("button")].find(
                (button) => (button.ariaLabel ?? button.textContent).trim() === text).click();
            const rendered = () => new Promise((resolve) => queueMicrotask(() => queueMicrotask(resolve)));
            click("Delete this chat");
            await rendered();
            click("Keep it");
            await rendered();
            click("Delete this chat");
        }"""
    )


async def test_the_list_of_chats_on_a_phone(page: ChatPage) -> None:
    """It lies over the chat, which cannot be reached meanwhile."""
    await page.page.set_viewport_size({"width": 390, "height": 760})
    await page.button("Show the list of chats").click()
    await expect(page.button("Close the list of chats")).to_be_focused()
    assert await page.page.locator("main").evaluate("main => main.inert")
    await page.page.keyboard.press("Escape")
    await expect(page.button("Show the list of chats")).to_be_focused()
    assert not await page.page.locator("main").evaluate("main => main.inert")


async def test_a_screen_reader_is_told_once(product: Deployment, page: ChatPage) -> None:
    """What has happened, and the answer when it is there; not each piece of it."""
    text = an_answer(product, "read", words=60, rate=15)
    await page.page.evaluate(LISTEN)
    await page.ask("Please have it read")
    await page.expect_words(5)
    await page.page.context.set_offline(True)
    await page.expect_word("Reconnecting")
    await page.page.context.set_offline(False)
    await page.expect_word("Resumed")
    await page.expect_status("done")
    await page.page.wait_for_function("text => window.heard.at(-1) === text || window.heard.length > 20", arg=text)
    heard = [word for word in await page.page.evaluate("window.heard") if word]
    assert heard.count("The answer is being written.") == 1
    assert len(heard) <= 6, heard


async def test_the_end_is_let_go_of_at_the_smallest_move(product: Deployment, page: ChatPage) -> None:
    """Many small steps of a trackpad are not pulled back one by one; at the end the answer is followed again."""
    product.queue_scripts({"match": "scrolled", "text": "\n\n".join(f"Line {n}." for n in range(400)), "rate": 60})
    await page.ask("What if it is scrolled?")
    await page.expect_words(120)
    assert await page.page.evaluate(BELOW) < 2
    await page.page.mouse.move(640, 300)
    await page.page.mouse.wheel(0, -12)
    await page.expect_words(220)
    assert await page.page.evaluate(BELOW) > 100
    await page.button("Go to the latest").click()
    await page.expect_words(300)
    assert await page.page.evaluate(BELOW) < 60
    await page.stop()
