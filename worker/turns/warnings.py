"""What the `done` event says about the user's quotas, read after the turn was settled so that it agrees with them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from shared.clock import Clock
from shared.db.engine import Sessions
from shared.policy.source import PolicySource
from shared.quotas.status import load_status, quota_warnings
from shared.settings import Settings
from shared.turns.finalize import Finalized
from shared.turns.lifecycle import TurnState

logger = logging.getLogger(__name__)

TIMEOUT_SECS = 2
"""The end of an answer does not wait longer for what is only good to know."""


@dataclass(frozen=True, slots=True)
class QuotaWarnings:
    settings: Settings
    sessions: Sessions
    policies: PolicySource
    clock: Clock

    async def after(self, finalized: Finalized) -> list[dict[str, Any]] | None:
        """None for a turn that was not completed, or if it cannot be told."""
        turn = finalized.turn
        if finalized.ending.state is not TurnState.COMPLETED or turn.requester_user_id is None:
            return None
        tenant_id, user_id = turn.tenant_id, turn.requester_user_id
        try:
            async with asyncio.timeout(TIMEOUT_SECS), self.sessions() as session:
                version = self.policies.current_version(tenant_id, user_id)
                status = await load_status(
                    session,
                    tenant_id=tenant_id,
                    user_id=user_id,
                    limits=await self.policies.limits(tenant_id, user_id, version),
                    now=self.clock.now(),
                    threshold=self.settings.quota.warning_threshold_pct,
                )
        except Exception as error:
            logger.warning("quota warnings cannot be told: %r", error, extra={"turn_id": str(turn.id)})
            return None
        return quota_warnings(status)
