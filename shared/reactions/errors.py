from __future__ import annotations

from shared.errors import InvalidError


class InvalidReactionTargetError(InvalidError):
    code = "invalid_reaction_target"
    default_detail = "Only an answer of the assistant can be reacted to"
