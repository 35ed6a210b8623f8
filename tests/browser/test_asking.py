"""Asking in a hurry, on a bad line, with files from everywhere: nothing is asked twice, and nothing is lost."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from shared.ids import new_uuid4
from tests.browser.chat_page import ChatPage, Witness
from tests.browser.test_files import NOTES
from tests.browser.test_streaming import an_answer
from tests.support.deployment import Deployment
from tests.support.tokens import Caller, claims_of, sign
from tests.support.uploads import image

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHATS = re.compile(r"/chats$")
ASK = re.compile(r"/messages:stream$")


class Gate:
    """Requests wait before it until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def __call__(self, route: Route) -> None:
        if route.request.method == "POST":
            self.reached.set()
            await self._opened.wait()
        await route.continue_()

    def open(self) -> None:
        self._opened.set()


async def transfer(page: Page, selector: str, kind: str, *items: dict[str, str]) -> None:
    """Paste or drop; each item is a `text` of a `type`, or a file with a `name` as well, base64."""
    await page.evaluate(
        """([selector, kind, items]) => {
          const data = new DataTransfer();
          for (const { name, type, text } of items) {
            if (name === undefined) data.setData(type, text);
            else data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name, { type }));
          }
          const options = { bubbles: true, cancelable: true };
          const send = event => document.querySelector(selector).dispatchEvent(event);
          if (kind === 'paste') return void send(new ClipboardEvent('paste', { ...options, clipboardData: data }));
          window.wasTaken = ['dragover', 'drop'].map(
            type => !send(new DragEvent(type, { ...options, dataTransfer: data })));
        }""",
        [selector, kind, items],
    )


def a_picture(name: str = "sea.png") -> dict[str, str]:
    return {"name": name, "type": "image/png", "text": b64encode(image(size=(64, 48))).decode()}


async def test_enter_twice_asks_once(page: ChatPage) -> None:
    """The chat is still being made; the question is shown already, and what is typed meanwhile is kept."""
    gate = Gate()
    await page.page.route(CHATS, gate)
    await page.composer.fill("Only once, please")
    await page.composer.press("Enter")
    await page.composer.press("Enter")
    await expect(page.latest.locator(".bubble")).to_have_text("Only once, please")
    await gate.reached.wait()
    await page.composer.fill("And next")
    gate.open()
    await page.expect_status("done")
    await expect(page.turns).to_have_count(1)
    await expect(page.notice).to_have_count(0)
    await expect(page.composer).to_have_value("And next")


async def test_a_refused_question_comes_back(product: Deployment, context: BrowserContext, witness: Witness) -> None:
    """Before what has been typed since, and with the time after which it may be asked again."""
    caller = Caller()
    who = {"AUTH__DEV_TENANT_ID": str(caller.tenant_id), "AUTH__DEV_USER_ID": str(caller.user_id)}
    with product.extra_api(LIMITS__CONCURRENT_TURNS_PER_USER="1", **who) as api:
        witness.allow(api.url)
        an_answer(product, "only one", words=400)
        other = await ChatPage.open(context, api.url)
        await other.ask("Please, only one")
        await other.expect_words(3)
        page = await ChatPage.open(context, api.url)
        gate = Gate()
        await page.page.route(ASK, gate)
        await page.ask("Too much?")
        await gate.reached.wait()
        await page.composer.fill("And more")
        gate.open()
        await expect(page.composer).to_have_value("Too much?\n\nAnd more")
        await expect(page.notice).to_contain_text(re.compile(r"Try again in \d+ seconds?\."))
        await expect(page.turns).to_have_count(0)
        await other.stop()
        await other.expect_word("Stopped")


async def test_another_chat_is_opened_at_once(product: Deployment, page: ChatPage) -> None:
    """The question is on its way, and gets there; its chat says so in the list, and when the answer has ended."""
    await page.ask("Something to begin with")
    await page.expect_status("done")
    first = page.chat_id
    text = an_answer(product, "hurried", words=60, rate=10)
    await page.button("New chat").click()
    gate = Gate()
    await page.page.route(CHATS, gate)
    await page.ask("Please be hurried")
    await gate.reached.wait()
    await page.page.locator(f'.chat-item a[href$="{first}"]').click()
    await expect(page.latest.locator(".bubble")).to_have_text("Something to begin with")
    gate.open()
    running = page.page.locator(".chat-item").filter(has_text="Please be hurried")
    await expect(running.locator(".running-dot")).to_be_visible()
    await expect(running.locator(".running-dot")).to_have_count(0)
    await expect(page.turns).to_have_count(1)
    await running.locator("a").click()
    await page.expect_status("done")
    await expect(page.answer).to_have_text(text)


async def test_a_stop_before_the_server_has_the_question(product: Deployment, page: ChatPage) -> None:
    an_answer(product, "premature", words=400)
    gate = Gate()
    await page.page.route(ASK, gate)
    await page.ask("Please be premature")
    await gate.reached.wait()
    await page.stop()
    gate.open()
    await page.expect_word("Stopped")
    await expect(page.notice).to_have_count(0)


async def test_a_stop_that_fails_can_be_tried_again(product: Deployment, page: ChatPage) -> None:
    an_answer(product, "unstoppable", words=400)
    await page.ask("Are you unstoppable?")
    await page.expect_words(3)
    await page.page.route("**/cancel", lambda route: route.abort())
    await page.stop()
    await expect(page.notice).to_contain_text("cannot be reached")
    await page.page.unroute("**/cancel")
    await page.stop()
    await page.expect_word("Stopped")


async def test_a_chat_that_cannot_be_read(product: Deployment, page: ChatPage) -> None:
    """It says so, and is read again on demand, or before a question is asked: in this chat, not in a new one."""
    await page.ask("Something to begin with")
    await page.expect_status("done")
    chat = page.chat_id
    path = f"**/chats/{chat}"
    await page.page.route(path, lambda route: route.abort())
    await page.page.reload()
    await expect(page.page.get_by_role("heading", name="This chat could not be read")).to_be_visible()
    await page.composer.fill("Is anybody there?")
    await page.composer.press("Enter")
    await expect(page.notice).to_contain_text("cannot be reached")
    await expect(page.composer).to_have_value("Is anybody there?")
    await page.page.unroute(path)
    await page.button("Try again").click()
    await expect(page.turns).to_have_count(1)
    await page.ask("Is anybody there?")
    await page.expect_status("done")
    assert page.chat_id == chat
    await expect(page.turns).to_have_count(2)


async def test_a_missing_chat_is_followed_by_a_new_one(page: ChatPage) -> None:
    await page.page.evaluate("location.hash = '#/chats/00000000-0000-4000-8000-000000000000'")
    await expect(page.page.get_by_role("heading", name="This chat does not exist")).to_be_visible()
    await page.ask("Then a new one")
    await page.expect_status("done")
    assert not page.chat_id.startswith("00000000")
    await page.page.reload()
    await expect(page.latest.locator(".bubble")).to_have_text("Then a new one")


async def test_what_is_prepared_waits(page: ChatPage) -> None:
    """Text and files of one chat are there again after a look at another."""
    await page.ask("Something to begin with")
    await page.expect_status("done")
    chat = page.page.url
    await page.attach(NOTES)
    await page.expect_upload("notes.txt", "ready")
    await page.composer.fill("What do they say?")
    await page.button("New chat").click()
    await expect(page.uploads).to_have_count(0)
    await expect(page.composer).to_have_value("")
    await page.page.goto(chat)
    await page.expect_upload("notes.txt", "ready")
    await expect(page.composer).to_have_value("What do they say?")
    await page.composer.press("Enter")
    await expect(page.attachments).to_have_text(["notes.txt"])
    await page.expect_status("done")


async def test_files_can_be_pasted(page: ChatPage) -> None:
    """Unless they are only the picture of a text that is there too, as word processors have it."""
    text = [{"type": "text/plain", "text": "a,b"}, {"type": "text/html", "text": "<table></table>"}]
    await transfer(page.page, "#composer", "paste", *text, a_picture("cells.png"))
    await transfer(page.page, "#composer", "paste", {"type": "text/plain", "text": "sea.png"}, a_picture())
    await page.expect_upload("sea.png", "ready")
    await expect(page.uploads).to_have_count(1)


async def test_files_can_be_dropped(page: ChatPage) -> None:
    """On the chat. Beside it they are refused: the browser would show them instead of the page."""
    await transfer(page.page, ".thread", "drop", a_picture())
    await page.expect_upload("sea.png", "ready")
    await transfer(page.page, ".chat-list", "drop", a_picture("beside.png"))
    assert await page.page.evaluate("window.wasTaken") == [True, True]
    await expect(page.uploads).to_have_count(1)
    await expect(page.page.locator(".drop-target")).to_have_count(0)


async def test_an_input_method_has_its_keys(product: Deployment, page: ChatPage) -> None:
    """Enter takes a proposal, Escape drops it: neither asks, renames or stops."""
    composing: dict[str, Any] = {"isComposing": True}
    an_answer(product, "composition", words=200)
    await page.composer.fill("にほん")
    await page.composer.dispatch_event("keydown", {"key": "Enter", "keyCode": 229})
    await page.composer.dispatch_event("keydown", {"key": "Enter"} | composing)
    await expect(page.turns).to_have_count(0)
    await page.ask("composition")
    await page.expect_words(3)
    await page.composer.dispatch_event("keydown", {"key": "Escape"} | composing)
    await page.button("Rename this chat").click()
    field = page.page.get_by_label("Title of the chat")
    await field.fill("日本")
    await field.dispatch_event("keydown", {"key": "Enter"} | composing)
    await expect(field).to_be_visible()
    await field.press("Enter")
    await expect(page.page.get_by_role("heading", level=1)).to_have_text("日本")
    await page.expect_status("done")


async def test_plain_http_from_another_host(product: Deployment, context: BrowserContext) -> None:
    """Without what browsers keep for secure pages: asking and copying work all the same."""
    with product.extra_api(AUTH__MODE="jwt") as api:
        page = ChatPage(await context.new_page())
        await page.page.goto(f"http://plain.test:{api.port}/")
        assert not await page.page.evaluate("isSecureContext")
        await page.sign_in(sign(claims_of(new_uuid4(), new_uuid4())))
        await page.ask("Is this safe?")
        await page.expect_status("done")
        await page.button("Copy the question").click()
        await expect(page.button("Copied")).to_be_visible()
        await page.composer.press("Control+v")
        await expect(page.composer).to_have_value("Is this safe?")
