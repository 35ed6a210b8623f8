"""Every table of the schema in one namespace, for migrations: a table is part of it once it is imported here."""

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.db.base import Base
from shared.messages.tables import Message, MessageAttachment
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage
from shared.quotas.tables import PolicySnapshot, QuotaUsage
from shared.reactions.tables import MessageReaction
from shared.summaries.tables import ThreadSummary
from shared.turns.tables import Turn

__all__ = [
    "Attachment",
    "Base",
    "Chat",
    "ChatVectorStore",
    "Message",
    "MessageAttachment",
    "MessageReaction",
    "OutboxDeadLetter",
    "OutboxMessage",
    "PolicySnapshot",
    "QuotaUsage",
    "ThreadSummary",
    "Turn",
]

metadata = Base.metadata
