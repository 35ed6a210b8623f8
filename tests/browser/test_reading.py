"""A long conversation is loaded as it is read, and stays where it is while that happens."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest
from playwright.async_api import expect

from shared.ids import new_uuid4
from tests.browser.chat_page import ChatPage
from tests.support.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

TURNS = 50
LONG = "Some words of a *long* answer with `code`.\n\n" * 200

OLDER = """
INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, created_at)
SELECT $1, tenant_id, chat_id, $2, $3, $4, created_at - make_interval(mins => $5)
FROM messages WHERE chat_id = $6 ORDER BY created_at DESC LIMIT 1
"""

# Scrolls near the beginning of what is loaded, and answers where a turn is then, and where it is when more is loaded.
LOOK = """async () => {
  const thread = document.querySelector('.thread');
  const turns = () => document.querySelectorAll('.turn');
  const deadline = performance.now() + 20_000;
  const until = async condition => {
    while (!condition()) {
      if (performance.now() > deadline) throw new Error(`waited in vain for ${condition}`);
      await new Promise(requestAnimationFrame);
    }
  };
  const isShown = () => [...document.querySelectorAll('.prose')].every(prose => prose.textContent.includes('The end.'));
  await until(isShown);
  const before = turns().length;
  thread.scrollTop = 150;
  await new Promise(requestAnimationFrame);
  const seen = [...turns()].find(turn => turn.getBoundingClientRect().bottom > thread.offsetTop + 20);
  const at = seen.getBoundingClientRect().top;
  await until(() => turns().length > before && isShown());
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
  return seen.getBoundingClientRect().top - at;
}"""


async def test_what_is_read_does_not_move(product: Deployment, page: ChatPage) -> None:
    """Older turns come above it, with answers so long that they take several frames to show."""
    product.queue_scripts({"match": "the last question", "text": "The end.", "rate": 0})
    await page.ask("This is the last question")
    await page.expect_status("done")
    connection = await asyncpg.connect(product.database_url)
    for number in range(TURNS):
        request_id, chat_id = new_uuid4(), UUID(page.chat_id)
        for role, content in (("user", f"Question {number}"), ("assistant", f"{LONG}The end.")):
            age = 2 * number + (2 if role == "user" else 1)
            await connection.execute(OLDER, new_uuid4(), request_id, role, content, age, chat_id)
    await connection.close()
    await page.page.reload()
    await page.expect_status("done")
    await expect(page.turns).to_have_count(20)
    for loaded in (40, TURNS + 1):
        assert abs(await page.page.evaluate(LOOK)) < 3
        await expect(page.turns).to_have_count(loaded)
    await expect(page.page.locator(".older")).to_have_count(0)
