"""Deleting a chat, by its owner or by an operator."""

from __future__ import annotations

import logging

from shared.attachments.repository import AttachmentRepository
from shared.chats.repository import ChatRepository
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId, UserId
from shared.outbox.enqueue import enqueue
from shared.outbox.messages import chat_cleanup
from shared.turns.repository import TurnRepository
from shared.turns.stop import TurnStopper
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys

logger = logging.getLogger(__name__)


async def delete_chat(
    chat_id: ChatId, *, tenant_id: TenantId, user_id: UserId, sessions: Sessions, clock: Clock, stopper: TurnStopper
) -> None:
    """Make the chat invisible and hand what it left at the provider to the cleanup, all or nothing.

    Then its running turn is stopped, and the event logs of the others are deleted.

    Raises:
        ChatNotFoundError: absent, deleted already or somebody else's.
    """
    async with sessions.begin() as session:
        chats = ChatRepository(session)
        await chats.lock_owned(chat_id, tenant_id=tenant_id, user_id=user_id)
        now = clock.now()
        await chats.soft_delete(chat_id, tenant_id=tenant_id, user_id=user_id, now=now)
        turns = TurnRepository(session)
        running = await turns.find_running(chat_id)
        if running is not None:
            running = await turns.request_stop(running.id, trigger="internal")
        ended = await turns.list_ended_request_ids(chat_id)
        await AttachmentRepository(session).mark_for_cleanup(chat_id, tenant_id=tenant_id, now=now)
        await enqueue(session, [chat_cleanup(chat_id, tenant_id=tenant_id, deleted_at=now)], metrics=stopper.metrics)
    if running is not None:
        stopper.metrics.cancel_requested.labels(trigger="internal").inc()
        await stopper.carry_out(running)
    try:
        await stopper.log.delete([TurnKeys(chat_id, request_id) for request_id in ended])
    except REDIS_FAILURE as error:
        logger.warning("the event logs of a deleted chat are left to their end: %r", error)
