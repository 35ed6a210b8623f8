"""Files: on their way to the server, with a question, and as the sources of an answer."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import FilePayload, expect

from tests.browser.chat_page import ChatPage
from tests.support.deployment import Deployment
from tests.support.uploads import files_of, image

pytestmark = pytest.mark.asyncio(loop_scope="session")

KIB = 1024
NOTES = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"Water the plants on Monday.\n")


async def test_a_document_is_sent_with_a_question(product: Deployment, page: ChatPage) -> None:
    """Over a slow line its progress is shown, and it cannot be sent before it is ready."""
    await page.limit_upload(128 * KIB)
    await page.attach(NOTES | {"buffer": NOTES["buffer"] * 10_000})
    await page.page.wait_for_function(
        "() => { const bar = document.querySelector('.upload progress'); return bar?.value > 0 && bar.value < 100; }"
    )
    await page.composer.fill("What is due on Monday?")
    await expect(page.button("Send")).to_be_disabled()
    await page.limit_upload(None)
    await page.expect_upload("notes.txt", "ready")
    await page.ask("What is due on Monday?")
    await expect(page.uploads).to_have_count(0)
    await page.expect_status("done")
    for _ in range(2):
        await expect(page.attachments).to_have_text(["notes.txt"])
        await page.page.reload()
    async with product.client() as client:
        messages = (await client.get(f"/chats/{page.chat_id}/messages")).json()["items"]
    [sent] = [message["attachments"] for message in messages if message["role"] == "user"]
    assert [(one["filename"], one["status"]) for one in sent] == [("notes.txt", "ready")]


async def test_an_image_is_shown_with_its_thumbnail(page: ChatPage) -> None:
    await page.attach(FilePayload(name="sea.png", mimeType="image/png", buffer=image(size=(640, 480))))
    await page.expect_upload("sea.png", "ready")
    await expect(page.uploads.locator("img")).to_have_attribute("src", re.compile("^data:image/"))
    await page.ask("What is to be seen?")
    for _ in range(2):
        await page.expect_status("done")
        thumbnail = page.attachments.locator("img")
        await expect(thumbnail).to_be_visible()
        assert await thumbnail.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
        await page.page.reload()


async def test_a_refused_file_says_why(page: ChatPage) -> None:
    """It can be taken out again, and does not stand in the way of a question."""
    await page.attach(FilePayload(name="setup.exe", mimeType="application/x-msdownload", buffer=b"MZ"), NOTES)
    await page.expect_upload("setup.exe", "failed")
    await expect(page.upload("setup.exe").get_by_role("alert")).to_have_text(re.compile("type"))
    await page.expect_upload("notes.txt", "ready")
    await page.button("Remove setup.exe").click()
    await expect(page.uploads).to_have_count(1)
    await page.ask("And without it?")
    await page.expect_status("done")
    await expect(page.attachments).to_have_text(["notes.txt"])


async def test_sources_are_named(product: Deployment, page: ChatPage) -> None:
    """Pages as links, files by the name that the user gave them; a reload finds them again."""
    await page.attach(NOTES)
    await page.expect_upload("notes.txt", "ready")
    async with product.client() as client:
        [file] = await files_of(client, product.provider_url, page.chat_id)
    url = "https://example.org/a"
    web = {"type": "url_citation", "url": url, "title": "A page", "start_index": 0, "end_index": 5}
    product.queue_scripts(
        {
            "match": "with sources",
            "text": "Plants need water.",
            "tools": [{"name": "web_search"}, {"name": "file_search", "details": {"files_searched": 1}}],
            "citations": [web, {"type": "file_citation", "file_id": file["id"], "filename": "x", "index": 6}],
        }
    )
    await page.button("Web search").click()
    await page.ask("Please tell it with sources")
    await page.expect_status("done")
    await expect(page.latest.locator(".tools li")).to_have_text(["Searched the web", re.compile("Searched your files")])
    for _ in range(2):
        sources = page.latest.get_by_role("region", name="Sources")
        await expect(sources.get_by_role("listitem")).to_have_count(2)
        link = sources.get_by_role("link", name="A page")
        await expect(link).to_have_attribute("href", url)
        await expect(link).to_have_attribute("rel", re.compile("noopener"))
        await expect(sources.locator(".source-title")).to_have_text("notes.txt")
        await page.page.reload()
