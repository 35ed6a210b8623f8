"""Takes the README's pictures of the page: `make screenshots`. Run it after changing how the page looks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.async_api import Browser, ViewportSize, async_playwright, expect

from tests.browser.chat_page import ChatPage
from tests.browser.chromium import ARGUMENTS, find_chromium
from tests.support.catalogs import acceptance_catalog
from tests.support.database import cloned_database, template_database
from tests.support.deployment import Deployment, deployment
from tests.support.engines import TestEngines

FOLDER: Final = Path(__file__).parent / "screenshots"
DESKTOP: Final = ViewportSize(width=1200, height=760)
PHONE: Final = ViewportSize(width=390, height=760)

LOCKING: Final = """Optimistic locking lets two people read the same row, and **refuses the second write**. \
No lock is held while they think.

1. Read the row together with its `version`.
2. Write it on the condition that the version is still the same.
3. If no row was hit, somebody was faster: read again, and decide anew.

```sql
UPDATE documents
   SET body = :body, version = version + 1
 WHERE id = :id AND version = :seen;
```

Use it where conflicts are rare; where they are the rule, a queue serves everybody better."""

REPLAY: Final = """A stream that can be resumed needs three things:

- an **id** for every event, the same at every replica,
- a **log** that outlives the connection,
- a client that comes back with the last id it has seen.

What was written while nobody listened is simply read later. """

CITATIONS: Final = [
    {"type": "url_citation", "url": "https://example.com/locking", "title": "Concurrency control", "start_index": 0,
     "end_index": 18},
    {"type": "url_citation", "url": "https://example.org/versions", "title": "Rows with versions", "start_index": 19,
     "end_index": 39},
]  # fmt: skip


def main() -> None:
    """Of a product of our own, of which only the pictures remain."""
    FOLDER.mkdir(exist_ok=True)
    with TestEngines() as engines, template_database(engines.database_url, worker="screenshots") as template:
        asyncio.run(_shoot(template, engines.redis_url))


async def _shoot(template_url: str, valkey_url: str) -> None:
    async with cloned_database(template_url) as url, async_playwright() as playwright:
        with deployment(
            database_url=url, valkey_url=valkey_url, apis=1, workers=1, make_catalog=_catalog, AUTH__MODE="dev"
        ) as product:
            browser = await playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
            await _take(product, browser)
            await browser.close()


async def _take(product: Deployment, browser: Browser) -> None:
    context = await browser.new_context(viewport=DESKTOP, color_scheme="light")
    page = await ChatPage.open(context, product.apis[0].url)
    for title in ("Plan a week in Lisbon", "Why is the sky blue?", "Names for a grey cat"):
        await page.ask(title)
        await page.expect_status("done")
        await page.button("New chat").click()
    await expect(page.turns).to_have_count(0)
    await _save(page, "empty")

    script: dict[str, Any] = {"match": "optimistic locking", "text": LOCKING, "rate": 0}
    product.queue_scripts(script | {"tools": [{"name": "web_search"}], "citations": CITATIONS})
    await page.button("Web search").click()
    await page.ask("Explain optimistic locking to a new colleague")
    await page.expect_status("done")
    await _save(page, "answer")
    await page.page.emulate_media(color_scheme="dark")
    await _save(page, "dark")

    product.queue_scripts({"match": "resumed", "text": REPLAY * 12, "rate": 12})
    await page.page.set_viewport_size(PHONE)
    await page.page.emulate_media(color_scheme="light")
    await page.ask("How can a stream be resumed?")
    await page.expect_words(45)
    await context.set_offline(True)
    await page.expect_word("Reconnecting")
    await _save(page, "phone")
    await context.set_offline(False)
    await context.close()


async def _save(page: ChatPage, name: str) -> None:
    """As a file of few bytes: such pictures have few colours."""
    await page.page.mouse.move(0, 0)
    await page.page.evaluate("document.activeElement?.blur()")
    path = FOLDER / f"{name}.png"
    await page.page.screenshot(path=path, animations="disabled", caret="hide")
    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def _catalog(*, provider_port: int) -> dict[str, Any]:
    tree = acceptance_catalog(provider_port=provider_port)
    names = {"azure-gpt-4.1": "Premium", "gpt-5.2": "Standard", "gpt-5-mini": "Mini", "gpt-5-nano": "Nano"}
    for entry in tree["model_catalog"]:
        entry["display_name"] = names.get(entry["id"], entry["display_name"])
    return tree


if __name__ == "__main__":
    main()
