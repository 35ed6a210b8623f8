"""The page as its user sees it: what they do, and what they can read."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, Literal, Self

from playwright.async_api import BrowserContext, ConsoleMessage, FilePayload, Locator, Page, Request, expect

# Generous: the machine may be busy, and nothing waits longer than it must.
TIMEOUT_MS: Final = 20_000
expect.set_options(timeout=TIMEOUT_MS)


class Witness:
    """Notes what no tab may do. A request that fails is no offence: tests cut connections."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = tuple(origins)
        self.complaints: list[str] = []

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._hear)
        page.on("request", self._see)

    def allow(self, origin: str) -> None:
        """Of a process that was started for this test."""
        self._origins = (*self._origins, origin)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((*self._origins, "blob:", "data:")):
            self.complaints.append(f"a request to {request.url}")


class ChatPage:
    """A tab."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @classmethod
    async def open(cls, context: BrowserContext, url: str, *, chat: str | None = None) -> Self:
        """A new tab, with a new chat or with the one named."""
        tab = cls(await context.new_page())
        tab.page.set_default_timeout(TIMEOUT_MS)
        await tab.page.goto(f"{url}/" + (f"#/chats/{chat}" if chat else ""))
        await expect(tab.composer).to_be_visible()
        return tab

    async def duplicate(self) -> Self:
        """Another tab with the same address."""
        tab = type(self)(await self.page.context.new_page())
        tab.page.set_default_timeout(TIMEOUT_MS)
        await tab.page.goto(self.page.url)
        await expect(tab.composer).to_be_visible()
        return tab

    # --- what there is to see

    @property
    def composer(self) -> Locator:
        return self.page.locator("#composer")

    @property
    def turns(self) -> Locator:
        return self.page.locator(".turn")

    @property
    def latest(self) -> Locator:
        return self.turns.last

    @property
    def answer(self) -> Locator:
        """The text of the latest answer."""
        return self.latest.locator(".prose")

    @property
    def status(self) -> Locator:
        """The word under the latest answer; there is none while all is well."""
        return self.latest.locator(".status")

    @property
    def notice(self) -> Locator:
        return self.page.locator(".composer-frame .notice")

    @property
    def uploads(self) -> Locator:
        """The files that go with the next question."""
        return self.page.locator(".upload")

    def upload(self, name: str) -> Locator:
        return self.uploads.filter(has_text=name)

    @property
    def attachments(self) -> Locator:
        """The files of the latest question."""
        return self.latest.locator(".attachment")

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_role("button", name=name, exact=isinstance(name, str))

    async def words(self) -> list[str]:
        """The words of the latest answer so far."""
        return (await self.answer.inner_text()).split()

    @property
    def chat_id(self) -> str:
        return self.page.url.rpartition("#/chats/")[2]

    # --- what there is to do

    async def ask(self, question: str) -> None:
        await self.composer.fill(question)
        await self.composer.press("Enter")
        await expect(self.latest.locator(".bubble")).to_have_text(question)

    async def sign_in(self, token: str) -> None:
        await self.page.get_by_label("Access token").fill(token)
        await self.button("Sign in").click()

    async def stop(self) -> None:
        await self.button("Stop").click()

    async def attach(self, *files: FilePayload) -> None:
        await self.page.get_by_label("Files to attach").set_input_files(files)

    async def limit_upload(self, bytes_per_second: int | None) -> None:
        """Have a slow line, or the usual one again."""
        session = await self.page.context.new_cdp_session(self.page)
        speed = -1 if bytes_per_second is None else bytes_per_second
        conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": speed}
        await session.send("Network.emulateNetworkConditions", conditions)

    async def expect_status(self, *statuses: str) -> None:
        """Wait until the latest turn is in one of these."""
        await expect(self.latest).to_have_attribute("data-status", re.compile(f"^({'|'.join(statuses)})$"))

    async def expect_word(self, word: str) -> None:
        """Wait until it can be read under the latest answer."""
        await expect(self.status).to_contain_text(word)

    async def expect_upload(self, name: str, state: Literal["pending", "ready", "failed"]) -> None:
        await expect(self.upload(name)).to_have_attribute("data-state", state)

    async def expect_words(self, count: int) -> None:
        """Wait until the latest answer has at least that many."""
        await self.page.wait_for_function(
            """count => {
              const all = document.querySelectorAll('.turn .prose');
              return (all[all.length - 1]?.textContent ?? '').split(/\\s+/).filter(Boolean).length >= count;
            }""",
            arg=count,
        )
