"""Creating, reading and renaming chats. Each function is one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from api.auth import Principal
from api.listing import ListQuery
from api.odata import OrderKey
from api.pagination import KeyValue, Page, build_page, page_request, paginate
from shared.chats.repository import ChatOverview, ChatRepository
from shared.chats.tables import Chat
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.ids import ChatId, new_uuid7
from shared.model_catalog.catalog import Catalog
from shared.model_catalog.errors import InvalidModelError

_NEWEST_FIRST: Final = (OrderKey("updated_at", descending=True), OrderKey("id", descending=True))
_COLUMNS: Final = {name: Chat.__table__.c[name] for name in ("updated_at", "id")}


async def create_chat(
    principal: Principal, *, title: str | None, model: str | None, catalog: Catalog, sessions: Sessions, clock: Clock
) -> ChatOverview:
    """Begin a chat with `model`, or the default of the catalog.

    Raises:
        InvalidModelError: the model is unknown or disabled, or there is none at all.
    """
    selected = catalog.default_model() if model is None else catalog.find_model(model)
    if selected is None or not selected.enabled:
        raise InvalidModelError
    now = clock.now()
    chat = Chat(
        id=new_uuid7(),
        tenant_id=principal.tenant_id,
        user_id=principal.user_id,
        model=selected.id,
        title=title,
        is_temporary=False,
        created_at=now,
        updated_at=now,
    )
    async with sessions.begin() as session:
        ChatRepository(session).add(chat)
    return ChatOverview(chat, message_count=0, running_request_id=None)


async def list_chats(principal: Principal, query: ListQuery, *, sessions: Sessions) -> Page[ChatOverview]:
    request = page_request(
        limit=query.limit,
        cursor=query.cursor,
        orderby=None,
        default_order=_NEWEST_FIRST,
        fields={"updated_at": datetime, "id": UUID},
        filter_hash=None,
    )
    async with sessions.begin() as session:
        found = await ChatRepository(session).list_overviews(
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            narrow=lambda statement: paginate(statement, request, _COLUMNS),
        )
    return build_page(found, request=request, key_of=_key_of)


async def get_chat(principal: Principal, chat_id: ChatId, *, sessions: Sessions) -> ChatOverview:
    async with sessions.begin() as session:
        return await ChatRepository(session).get_overview(
            chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id
        )


async def rename_chat(
    principal: Principal, chat_id: ChatId, title: str, *, sessions: Sessions, clock: Clock
) -> ChatOverview:
    async with sessions.begin() as session:
        chats = ChatRepository(session)
        await chats.rename(chat_id, title, tenant_id=principal.tenant_id, user_id=principal.user_id, now=clock.now())
        return await chats.get_overview(chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id)


def _key_of(overview: ChatOverview) -> dict[str, KeyValue]:
    return {"updated_at": overview.chat.updated_at, "id": overview.chat.id}
