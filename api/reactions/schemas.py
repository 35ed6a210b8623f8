from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from api.schemas import Timestamp, Uuid

Reaction = Literal["like", "dislike"]


class SetReaction(BaseModel):
    reaction: Reaction


class ReactionDetail(BaseModel):
    message_id: Uuid
    reaction: Reaction
    created_at: Timestamp
