"""Files to upload, the bodies that carry them, and what the provider holds of them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
from PIL import Image

from tests.support.waiting import wait_until

BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
MIB = 1024 * 1024


def part(
    content: bytes = b"hello",
    *,
    name: str = "file",
    filename: str | None = "notes.txt",
    content_type: str | None = "text/plain",
) -> bytes:
    """One part, with the boundary before it."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    lines = [f"--{BOUNDARY}", disposition, *([f"Content-Type: {content_type}"] if content_type else []), "", ""]
    return "\r\n".join(lines).encode() + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def chunked(whole: bytes, *, size: int = 65_536) -> AsyncIterator[bytes]:
    """The body without a length: httpx sends what has none in chunks."""
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


def image(mode: str = "RGB", size: tuple[int, int] = (300, 200), file_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, file_format, **options)
    return out.getvalue()


def attachments_path(chat_id: str, attachment_id: str | None = None) -> str:
    path = f"/chats/{chat_id}/attachments"
    return path if attachment_id is None else f"{path}/{attachment_id}"


async def send_file(
    client: httpx.AsyncClient,
    chat_id: str,
    content: bytes = b"hello",
    *,
    filename: str = "notes.txt",
    content_type: str = "text/plain",
) -> httpx.Response:
    return await client.post(attachments_path(chat_id), files={"file": (filename, content, content_type)})


async def send_body(
    client: httpx.AsyncClient, chat_id: str, content: bytes | AsyncIterator[bytes], *, content_type: str = FORM
) -> httpx.Response:
    headers = {"Content-Type": content_type}
    return await client.post(attachments_path(chat_id), content=content, headers=headers)


async def uploaded(client: httpx.AsyncClient, chat_id: str, content: bytes = b"hello", **how: Any) -> dict[str, Any]:
    """The attachment as the answer to its upload shows it."""
    answer = await send_file(client, chat_id, content, **how)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    attachment: dict[str, Any] = answer.json()
    return attachment


async def ready(client: httpx.AsyncClient, chat_id: str, content: bytes = b"hello", **how: Any) -> dict[str, Any]:
    """The attachment once it can be used."""
    attachment = await uploaded(client, chat_id, content, **how)

    async def is_ready() -> bool:
        attachment.update((await client.get(attachments_path(chat_id, attachment["id"]))).json())
        assert attachment["status"] != "failed", attachment
        return bool(attachment["status"] == "ready")

    await wait_until(is_ready, message="the attachment is not ready")
    return attachment


async def files_of(client: httpx.AsyncClient, provider_url: str, chat_id: str) -> list[dict[str, Any]]:
    """The files of the chat that the provider at `provider_url` holds, oldest first."""
    held = (await client.get(f"{provider_url}/_control/storage")).json()["files"]
    return [file for file in held if file["filename"].startswith(chat_id)]


def small_pieces(whole: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`whole` cut into pieces of these sizes, and a last one with what is left."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(whole[start : start + size])
        start += size
    return [*pieces, whole[start:]]
