"""Files from their upload to the model, for providers whose storage is OpenAI's and those whose storage is Azure's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from tests.support.catalogs import PREMIUM, STANDARD, acceptance_catalog, write_catalog
from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.sse import open_stream
from tests.support.stored import find_turn, store_file
from tests.support.turns import ask, create_chat, list_messages, message, new_marker, scripted, send_path
from tests.support.uploads import (
    MIB,
    XLSX,
    attachments_path,
    body,
    chunked,
    image,
    part,
    ready,
    send_body,
    send_file,
    uploaded,
)

both_storages = pytest.mark.parametrize("model", [STANDARD, PREMIUM], ids=["openai", "azure"])

PNG = {"filename": "picture.png", "content_type": "image/png"}
PDF = {"filename": "paper.pdf", "content_type": "application/pdf"}
SHEET = {"filename": "sums.xlsx", "content_type": "application/octet-stream"}


async def provider_files(product: Deployment, chat_id: str) -> dict[str, str]:
    """The provider's ids of the chat's files, by the attachment."""
    async with httpx.AsyncClient() as client:
        files = (await client.get(f"{product.provider_url}/_control/storage")).json()["files"]
    names = {file["filename"].split(".")[0]: file["id"] for file in files}
    return {name.split("_")[1]: file_id for name, file_id in names.items() if name.startswith(chat_id)}


def asked_with(product: Deployment, marker: str) -> dict[str, Any]:
    """The body of the one request with the marker."""
    (request,) = product.provider_requests(marker)
    found: dict[str, Any] = request["body"]
    return found


async def tools_of_a_turn(client: httpx.AsyncClient, product: Deployment, chat_id: str) -> dict[str, Any]:
    marker = new_marker()
    await ask(client, scripted(marker, text="Fine."), chat_id=chat_id)
    return {tool["type"]: tool for tool in asked_with(product, marker).get("tools", [])}


@both_storages
async def test_64_65_uploads_bring_their_tools(client: httpx.AsyncClient, product: Deployment, model: str) -> None:
    documents, sheets = [await create_chat(client, model=model) for _ in range(2)]

    text = await ready(client, documents, b"hello world")
    assert (text["kind"], text["size_bytes"], text["content_type"]) == ("document", 11, "text/plain")
    tools = await tools_of_a_turn(client, product, documents)
    assert tools.keys() == {"file_search"}
    (store_id,) = tools["file_search"]["vector_store_ids"]
    assert isinstance(tools["file_search"]["max_num_results"], int)

    sheet = await uploaded(client, sheets, b"x", **SHEET)
    assert (sheet["status"], sheet["content_type"]) == ("ready", XLSX)
    assert "doc_summary" not in sheet
    tools = await tools_of_a_turn(client, product, sheets)
    assert tools.keys() == {"code_interpreter"}
    file_id = (await provider_files(product, sheets))[sheet["id"]]
    assert tools["code_interpreter"]["container"] == {"type": "auto", "file_ids": [file_id]}

    second = await uploaded(client, documents, filename="sums.xlsx", content_type=XLSX)
    tools = await tools_of_a_turn(client, product, documents)
    assert tools.keys() == {"file_search", "code_interpreter"}
    assert tools["file_search"]["vector_store_ids"] == [store_id]
    files = await provider_files(product, documents)
    assert tools["code_interpreter"]["container"]["file_ids"] == [files[second["id"]]]
    # No provider id has reached the client.
    shown = str([text, sheet, second, await list_messages(client, documents)])
    assert not any(provider_id in shown for provider_id in (store_id, *files.values()))


@both_storages
async def test_69_limits_of_files(client: httpx.AsyncClient, database: asyncpg.Connection, model: str) -> None:
    chat_id = await create_chat(client, model=model)
    zipped = await send_file(client, chat_id, filename="a.zip", content_type="application/zip")
    assert_problem(zipped, 415, "unsupported_file_type")
    for size, file in ((6 * MIB, PNG), (26 * MIB, PDF)):
        whole = body(part(b"\0" * size, **file))
        for content in (whole, chunked(whole)):
            assert_problem(await send_body(client, chat_id, content), 413, "file_too_large")
    large = await ready(client, chat_id, b"x" * MIB)
    assert large["size_bytes"] == MIB

    await store_file(database, chat_id, size_bytes=99 * MIB - 5)
    assert_problem(await send_file(client, chat_id, b"x" * 6), 400, "storage_limit_exceeded")
    await uploaded(client, chat_id, b"x" * 5)

    crowded = await create_chat(client, model=model)
    for _ in range(50):
        await store_file(database, crowded)
    assert_problem(await send_file(client, crowded), 400, "document_limit_exceeded")
    await uploaded(client, crowded, image(), **PNG)


@both_storages
async def test_70_images_are_shown_to_the_model_and_in_the_list(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection, model: str
) -> None:
    chat_id, marker = await create_chat(client, model=model), new_marker()
    pictures = [await uploaded(client, chat_id, image(size=(300, 200 + number)), **PNG) for number in range(5)]
    assert {(picture["kind"], picture["status"]) for picture in pictures} == {("image", "ready")}
    thumbnail = pictures[0]["img_thumbnail"]
    assert (thumbnail["content_type"], thumbnail["width"], thumbnail["height"]) == ("image/webp", 128, 85)
    ids = [picture["id"] for picture in pictures]

    turn = await ask(client, scripted(marker, text="Nice."), chat_id=chat_id, attachment_ids=[ids[2], ids[0]])
    files = await provider_files(product, chat_id)
    content = asked_with(product, marker)["input"][-1]["content"]
    assert content[1:] == [
        {"type": "input_image", "file_id": files[attachment_id]} for attachment_id in (ids[2], ids[0])
    ]
    assert "tools" not in asked_with(product, marker)
    question, _ = await list_messages(client, chat_id)
    assert [(one["attachment_id"], one["img_thumbnail"]) for one in question["attachments"]] == [
        (ids[2], pictures[2]["img_thumbnail"]),
        (ids[0], thumbnail),
    ]
    used = "SELECT image_inputs, image_upload_bytes FROM quota_usage WHERE user_id = $1 AND bucket = 'total'"
    owner = (await find_turn(database, turn))["requester_user_id"]
    size = sum(picture["size_bytes"] for picture in pictures)
    assert [tuple(row) for row in await database.fetch(used, owner)] == [(2, size)] * 2

    refused = await client.post(send_path(chat_id), json=message("five", attachment_ids=ids))
    assert_problem(refused, 400, "too_many_images")


@both_storages
async def test_71_what_a_message_refers_to_stays_and_all_else_can_be_deleted(
    client: httpx.AsyncClient, product: Deployment, model: str
) -> None:
    chat_id = await create_chat(client, model=model)
    sent, spare = [await ready(client, chat_id, filename=name) for name in ("sent.txt", "spare.txt")]
    await ask(client, scripted(text="Fine."), chat_id=chat_id, attachment_ids=[sent["id"]])

    assert_problem(await client.delete(attachments_path(chat_id, sent["id"])), 409, "attachment_locked")
    for _ in range(2):
        assert (await client.delete(attachments_path(chat_id, spare["id"]))).status_code == 204
    assert_problem(await client.get(attachments_path(chat_id, spare["id"])), 404, "attachment_not_found")
    assert (await client.get(attachments_path(chat_id, sent["id"]))).json() == sent


@both_storages
async def test_47_a_retry_brings_what_is_left_of_real_attachments(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection, model: str
) -> None:
    chat_id, marker = await create_chat(client, model=model), new_marker()
    first, second = [await uploaded(client, chat_id, image(size=(9, size)), **PNG) for size in (8, 9)]
    text = await ready(client, chat_id)
    ids = [second["id"], text["id"], first["id"]]
    turn = await ask(client, scripted(marker, text="Nice."), chat_id=chat_id, attachment_ids=ids)
    files = await provider_files(product, chat_id)
    await database.execute("UPDATE attachments SET deleted_at = now() WHERE id = $1", UUID(first["id"]))
    path = f"{turn.turn_path}/retry"
    async with open_stream(client, "POST", path) as stream:
        assert (await stream.rest())[-1].name == "done"
    _, again = product.provider_requests(marker)
    assert again["body"]["input"][-1]["content"][1:] == [{"type": "input_image", "file_id": files[second["id"]]}]
    assert [tool["type"] for tool in again["body"]["tools"]] == ["file_search"]
    question, _ = await list_messages(client, chat_id)
    assert [one["attachment_id"] for one in question["attachments"]] == [second["id"], text["id"]]


async def test_22_only_what_is_ready_and_of_this_chat_can_be_attached(client: httpx.AsyncClient) -> None:
    chat_id, other_chat = [await create_chat(client) for _ in range(2)]
    elsewhere = await ready(client, other_chat)
    deleted = await ready(client, chat_id)
    await client.delete(attachments_path(chat_id, deleted["id"]))
    for attachment_id in (elsewhere["id"], deleted["id"]):
        refused = await client.post(send_path(chat_id), json=message("?", attachment_ids=[attachment_id]))
        assert_problem(refused, 400, "invalid_attachment")
    twice = [(await ready(client, chat_id))["id"]] * 2
    refused = await client.post(send_path(chat_id), json=message("?", attachment_ids=twice))
    assert_problem(refused, 400, "invalid_request")
    assert await list_messages(client, chat_id) == []


async def test_54_kill_switches_with_files(client: httpx.AsyncClient, product: Deployment, tmp_path: Path) -> None:
    """Another replica knows the policy that has switched everything off; the files came before it."""
    chat_id, marker = await create_chat(client, model=STANDARD), new_marker()
    picture = await uploaded(client, chat_id, image(), **PNG)
    await ready(client, chat_id)
    await uploaded(client, chat_id, b"x", **SHEET)
    tools = ("web_search", "file_search", "images", "code_interpreter")
    switches = {"policy_version": 54, "kill_switches": {f"disable_{tool}": True for tool in tools}}
    catalog = write_catalog(acceptance_catalog(provider_port=product.provider.port) | switches, tmp_path)
    with product.extra_api(CATALOG__PATH=str(catalog)) as process:
        async with httpx.AsyncClient(base_url=f"{process.url}/mini-chat/v1", headers=client.headers) as restricted:

            async def refused(**members: Any) -> tuple[int, str]:
                answer = await restricted.post(send_path(chat_id), json=message("?", **members))
                return answer.status_code, answer.json()["code"]

            assert_problem(await send_file(restricted, chat_id, image(), **PNG), 400, "images_disabled")
            assert_problem(await send_file(restricted, chat_id, b"x", **SHEET), 422, "validation_error")
            assert await refused(web_search={"enabled": True}) == (400, "web_search_disabled")
            assert await refused(attachment_ids=[picture["id"]]) == (400, "images_disabled")
            await ask(restricted, scripted(marker, text="Fine."), chat_id=chat_id)
            assert "tools" not in asked_with(product, marker)
    assert (await tools_of_a_turn(client, product, chat_id)).keys() == {"file_search", "code_interpreter"}


async def test_55_day_limits_with_files(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    sheets, pictures = [await create_chat(client, model=STANDARD) for _ in range(2)]
    await uploaded(client, sheets, b"x", **SHEET)
    picture = await uploaded(client, pictures, image(), **PNG)
    owner = await database.fetchval("SELECT user_id FROM chats WHERE id = $1", UUID(sheets))
    used = "UPDATE quota_usage SET {} WHERE user_id = $1 AND bucket = 'total' AND period_type = 'daily'"

    await database.execute(used.format("code_interpreter_calls = 50, image_inputs = 50, web_search_calls = 75"), owner)
    for body_of, scope in (
        ((sheets, {}), "code_interpreter"),
        ((pictures, {"attachment_ids": [picture["id"]]}), "image_inputs"),
        ((pictures, {"web_search": {"enabled": True}}), "web_search"),
    ):
        chat_id, members = body_of
        refused = await client.post(send_path(chat_id), json=message("?", **members))
        assert assert_problem(refused, 429, "quota_exceeded")["quota_scope"] == scope
    await ask(client, scripted(text="Fine."), chat_id=pictures)
    await database.execute(used.format("code_interpreter_calls = 49, image_inputs = 49"), owner)
    await ask(client, scripted(text="Fine."), chat_id=sheets)
    await ask(client, scripted(text="Fine."), chat_id=pictures, attachment_ids=[picture["id"]])


async def test_15_reactions_are_set_replaced_and_taken_away(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(text="Yes."))

    async def shown() -> list[str | None]:
        return [item["my_reaction"] for item in await list_messages(client, turn.chat_id)]

    path = f"/chats/{turn.chat_id}/messages/{turn.message_id}/reaction"
    for reaction in ("like", "dislike"):
        answer = await client.put(path, json={"reaction": reaction})
        assert answer.json().keys() == {"message_id", "reaction", "created_at"}
        assert await shown() == [None, reaction]
    assert_problem(await client.put(path, json={"reaction": "love"}), 400, "invalid_request")
    question = (await list_messages(client, turn.chat_id))[0]["id"]
    on_question = await client.put(path.replace(turn.message_id, question), json={"reaction": "like"})
    assert_problem(on_question, 400, "invalid_reaction_target")
    on_nothing = await client.put(path.replace(turn.message_id, turn.chat_id), json={"reaction": "like"})
    assert_problem(on_nothing, 404, "message_not_found")
    for _ in range(2):
        assert (await client.delete(path)).status_code == 204
    assert await shown() == [None, None]
