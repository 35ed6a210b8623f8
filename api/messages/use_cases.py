"""Reading the history of a chat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import Select

from api.auth import Principal
from api.listing import ListQuery
from api.messages.schemas import MessageDetail, MessageList
from api.odata import (
    MEMBERSHIP,
    ORDERED,
    FilterField,
    OrderKey,
    filter_hash,
    normalize,
    parse_filter,
    parse_orderby,
    parse_select,
    to_sql,
)
from api.pagination import KeyValue, build_page, page_request, paginate
from api.schemas import page_info
from shared.chats.repository import ChatRepository
from shared.db.engine import Sessions
from shared.ids import ChatId
from shared.messages.repository import MessageRepository
from shared.messages.tables import Message


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"


_OLDEST_FIRST: Final = (OrderKey("created_at"), OrderKey("id"))
_KEYS: Final = {"created_at": datetime, "id": UUID}
_FILTERS: Final = {
    "created_at": FilterField(datetime, ORDERED),
    "role": FilterField(Role, MEMBERSHIP),
    "id": FilterField(UUID, MEMBERSHIP),
}
_COLUMNS: Final = {name: Message.__table__.c[name] for name in ("created_at", "role", "id")}


@dataclass(frozen=True, slots=True)
class History:
    """A page of messages, and which of their members were asked for; None means all."""

    page: MessageList
    select: frozenset[str] | None


async def list_messages(principal: Principal, chat_id: ChatId, query: ListQuery, *, sessions: Sessions) -> History:
    """A page of the chat's messages with what belongs to each, in a fixed number of statements.

    Raises:
        InvalidError: the query cannot be understood.
        ChatNotFoundError: absent, deleted or somebody else's.
    """
    where = None if query.filter is None else parse_filter(query.filter, fields=_FILTERS)
    select = None if query.select is None else frozenset(parse_select(query.select, fields=MessageDetail.model_fields))
    request = page_request(
        limit=query.limit,
        cursor=query.cursor,
        orderby=None if query.orderby is None else parse_orderby(query.orderby, fields=_KEYS),
        default_order=_OLDEST_FIRST,
        fields=_KEYS,
        filter_hash=None if where is None else filter_hash(normalize(where)),
    )

    def narrow(statement: Select[Message]) -> Select[Message]:
        matching = statement if where is None else statement.where(to_sql(where, _COLUMNS))
        return paginate(matching, request, _COLUMNS)

    async with sessions.begin() as session:
        await ChatRepository(session).get_owned(chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id)
        messages = MessageRepository(session)
        found = await messages.list_visible(chat_id, tenant_id=principal.tenant_id, narrow=narrow)
        page = build_page(found, request=request, key_of=_key_of)
        ids = [message.id for message in page.items]
        attachments = await messages.attachments_of(ids, chat_id=chat_id, tenant_id=principal.tenant_id)
        reactions = await messages.reactions_of(
            ids, chat_id=chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id
        )
    details = (
        MessageDetail.of(message, attachments=attachments.get(message.id, ()), reaction=reactions.get(message.id))
        for message in page.items
    )
    return History(MessageList(items=tuple(details), page_info=page_info(page)), select)


def _key_of(message: Message) -> dict[str, KeyValue]:
    return {"created_at": message.created_at, "id": message.id}
