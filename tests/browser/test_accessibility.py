"""What axe-core finds, in the states that a page can be in: nothing."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.async_api import expect

from tests.browser.accessibility import expect_no_violation
from tests.browser.chat_page import ChatPage
from tests.support.deployment import Deployment

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
