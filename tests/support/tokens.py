"""Bearer tokens for tests, signed with one shared secret."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import jwt

from shared.clock import SystemClock
from shared.ids import new_uuid4

SECRET = "a secret of the tests, which is long enough for every algorithm: " + "0123456789"


def claims_of(tenant_id: UUID, user_id: UUID, /, **changes: Any) -> dict[str, Any]:
    """Claims that hold for an hour; a change to None leaves the claim out."""
    claims = {
        "tenant_id": str(tenant_id),
        "sub": str(user_id),
        "scope": "ai:mini_chat",
        "exp": SystemClock().now() + timedelta(hours=1),
    } | changes
    return {name: value for name, value in claims.items() if value is not None}


def sign(claims: dict[str, Any], *, key: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm)


@dataclass(frozen=True)
class Caller:
    """Somebody with a token of their own: another user of another tenant unless told."""

    tenant_id: UUID = field(default_factory=new_uuid4)
    user_id: UUID = field(default_factory=new_uuid4)
    scope: str | list[str] = "ai:mini_chat"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {sign(claims_of(self.tenant_id, self.user_id, scope=self.scope))}"}
