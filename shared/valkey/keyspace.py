"""Every key and channel in Valkey/Redis: its type, its owner and how long it lives. All of it may be lost.

    mc:{<chat_id>:<request_id>}:events   stream   the event log of a turn; a safety TTL, a short one after the end
    mc:{<chat_id>:<request_id>}:cancel   string   why the turn is to stop; 1 h
    mc:{<chat_id>:<request_id>}:clients  zset     attached clients by process, scored with their heartbeat's expiry
    mc:{<chat_id>:<request_id>}:live     channel  each entry of the log, at the moment it is appended
    mc:cancel                            channel  asks workers to stop a turn
    mc:limit:{<tenant>:<user>}:rate      string   when the user's bucket of requests is full again; until then
    mc:limit:{<tenant>:<user>}:turns     zset     turns that count as running, scored with their beginning
    mc:limit:{<tenant>:<user>}:streams   zset     open streams, scored with the expiry of their process's heartbeat
    mc:queue:wake                        list     one token per waiting job, capped; only while jobs wait
    mc:queue:running                     zset     jobs taken out of arq's queue by a worker; only while there are some
    mc:queue:admitted                    zset     turns that are let in and not yet enqueued, scored with their expiry
    arq:queue, arq:job:*, …              arq's own

The braces are a literal hash tag: all keys of a turn share a cluster slot. The chat id is in it because request ids are
chosen by clients and unique only within a chat: without it one tenant could read another's log.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

CANCEL_CHANNEL = "mc:cancel"
QUEUE_WAKE = "mc:queue:wake"
QUEUE_RUNNING = "mc:queue:running"
QUEUE_ADMITTED = "mc:queue:admitted"
TURN_EVENTS = "mc:{%s:%s}:events"
"""Of a chat id and a request id; a script fills it in."""


@dataclass(frozen=True)
class TurnKeys:
    """The keys of one turn, spelled once: a delta needs three of them."""

    chat_id: UUID
    request_id: UUID

    @cached_property
    def events(self) -> str:
        return TURN_EVENTS % (self.chat_id, self.request_id)

    @cached_property
    def cancel(self) -> str:
        return f"{self._tag}:cancel"

    @cached_property
    def clients(self) -> str:
        return f"{self._tag}:clients"

    @cached_property
    def live(self) -> str:
        return f"{self._tag}:live"

    @cached_property
    def _tag(self) -> str:
        return f"mc:{{{self.chat_id}:{self.request_id}}}"


@dataclass(frozen=True)
class LimitKeys:
    """The keys by which one user is limited."""

    tenant_id: UUID
    user_id: UUID

    @property
    def rate(self) -> str:
        return f"{self._tag}:rate"

    @property
    def turns(self) -> str:
        return f"{self._tag}:turns"

    @property
    def streams(self) -> str:
        return f"{self._tag}:streams"

    @property
    def _tag(self) -> str:
        return f"mc:limit:{{{self.tenant_id}:{self.user_id}}}"
