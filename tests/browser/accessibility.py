"""What axe-core has to say about a state of the page."""

from __future__ import annotations

from axe_playwright_python.async_playwright import Axe

from tests.browser.chat_page import ChatPage


async def expect_no_violation(page: ChatPage) -> None:
    results = await Axe().run(page.page)
    assert results.violations_count == 0, results.generate_report()
