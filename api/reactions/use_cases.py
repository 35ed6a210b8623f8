"""Liking and disliking answers. Each function is one transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from shared.chats.repository import ChatRepository
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.ids import ChatId, MessageId
from shared.messages.errors import MessageNotFoundError
from shared.messages.repository import MessageRepository
from shared.messages.tables import Message
from shared.reactions.errors import InvalidReactionTargetError
from shared.reactions.repository import ReactionRepository


async def set_reaction(
    principal: Principal, chat_id: ChatId, message_id: MessageId, reaction: str, *, sessions: Sessions, clock: Clock
) -> datetime:
    """Set the caller's reaction to an answer, in the place of an earlier one; when it was set.

    Raises:
        ChatNotFoundError, MessageNotFoundError: absent, deleted or somebody else's.
        InvalidReactionTargetError: the message is no answer.
    """
    now = clock.now()
    async with sessions.begin() as session:
        message = await _get_message(session, principal, chat_id, message_id)
        if message.role != "assistant":
            raise InvalidReactionTargetError
        await ReactionRepository(session).put(
            message_id,
            reaction,
            chat_id=chat_id,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            now=now,
        )
    return now


async def delete_reaction(principal: Principal, chat_id: ChatId, message_id: MessageId, *, sessions: Sessions) -> None:
    """Take the caller's reaction away, whether or not there is one.

    Raises:
        ChatNotFoundError, MessageNotFoundError: absent, deleted or somebody else's.
    """
    async with sessions.begin() as session:
        await _get_message(session, principal, chat_id, message_id)
        await ReactionRepository(session).remove(
            message_id, chat_id=chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id
        )


async def _get_message(session: AsyncSession, principal: Principal, chat_id: ChatId, message_id: MessageId) -> Message:
    await ChatRepository(session).get_owned(chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id)
    message = await MessageRepository(session).find_visible(message_id, chat_id=chat_id, tenant_id=principal.tenant_id)
    if message is None:
        raise MessageNotFoundError
    return message
