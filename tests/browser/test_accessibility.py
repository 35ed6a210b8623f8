"""What axe-core finds, in the states that a page can be in: nothing."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.async_api import FilePayload, expect

from tests.browser.accessibility import expect_no_violation
from tests.browser.chat_page import ChatPage
from tests.browser.test_files import NOTES
from tests.support.deployment import Deployment
from tests.support.uploads import image

pytestmark = pytest.mark.asyncio(loop_scope="session")

MARKDOWN = """# A heading

Some *text* with a [link](https://example.com) and `code`.

- [x] done
- [ ] to do

```python
print("hello")
```

| a | b |
|---|---|
| 1 | 2 |
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_violation(product: Deployment, page: ChatPage, scheme: Literal["light", "dark"]) -> None:
    await page.page.emulate_media(color_scheme=scheme)
    await expect_no_violation(page)
    marker = f"axe-{scheme}"
    tools = [{"name": "web_search"}, {"name": "code_interpreter", "details": {"output": "42"}}]
    citations = [
        {"type": "url_citation", "url": "https://example.com", "title": "Example", "start_index": 0, "end_index": 4}
    ]
    product.queue_scripts(
        {"match": marker, "text": MARKDOWN, "tools": tools, "citations": citations, "rate": 0},
        {"match": f"{marker}-slow", "tokens": 2_000, "rate": 20},
    )
    await page.button("Web search").click()
    await page.ask(f"Please show it all: {marker}")
    await page.expect_status("done")
    await expect_no_violation(page)
    await page.ask(f"Please go on: {marker}-slow")
    await page.expect_words(3)
    await expect_no_violation(page)
    await page.stop()
    await page.expect_word("Stopped")
    await expect_no_violation(page)
    await page.button("Keyboard shortcuts").click()
    await expect(page.page.get_by_role("dialog")).to_be_visible()
    await expect_no_violation(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
async def test_no_violation_in_what_comes_and_goes(
    product: Deployment, page: ChatPage, scheme: Literal["light", "dark"], width: int
) -> None:
    """Files in every state, sources, the field of a question, dialogs, the list of a phone."""
    await page.page.emulate_media(color_scheme=scheme)
    await page.page.set_viewport_size({"width": width, "height": 760})
    await page.attach(
        NOTES,
        FilePayload(name="sea.png", mimeType="image/png", buffer=image(size=(64, 48))),
        FilePayload(name="setup.exe", mimeType="application/x-msdownload", buffer=b"MZ"),
    )
    for name in ("notes.txt", "sea.png"):
        await page.expect_upload(name, "ready")
    await page.expect_upload("setup.exe", "failed")
    await expect_no_violation(page)
    marker = f"sources-{scheme}-{width}"
    citations = [
        {"type": "url_citation", "url": "https://example.com", "title": "x" * 200, "start_index": 0, "end_index": 4}
    ]
    product.queue_scripts({"match": marker, "text": "ل" * 40 + "\n\n" + "x" * 400, "citations": citations, "rate": 0})
    await page.button("Web search").click()
    await page.ask(f"Please name your sources: {marker} {'x' * 200}")
    await page.expect_status("done")
    await expect_no_violation(page)
    thread = page.page.locator(".thread")
    assert await thread.evaluate("thread => thread.scrollWidth <= thread.clientWidth"), "something is too wide"
    # A file beside a picture is as high as it needs.
    [file, picture] = [await page.attachments.filter(has_text=name).bounding_box() for name in ("notes.txt", "sea.png")]
    assert file is not None
    assert picture is not None
    assert file["height"] < picture["height"]
    await page.composer.press("ArrowUp")
    await expect(page.page.get_by_label("Your question")).to_be_focused()
    await expect_no_violation(page)
    await page.page.keyboard.press("Escape")
    await page.button("Delete this chat").click()
    await expect(page.button("Keep it")).to_be_visible()
    await expect_no_violation(page)
    await page.button("Keep it").click()
    if width < 800:
        await page.button("Show the list of chats").click()
        await expect(page.button("Close the list of chats")).to_be_focused()
        await expect_no_violation(page)
