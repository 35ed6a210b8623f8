from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from api.auth import Action, Principal
from api.dependencies import Context, require
from api.problems import problem_responses
from api.quotas.schemas import QuotaStatusAnswer
from shared.quotas.status import load_status

router = APIRouter(tags=["quotas"])


@router.get("/quota/status", responses=problem_responses())
async def get_quota_status(
    context: Context, principal: Annotated[Principal, Depends(require(Action.READ_QUOTA))]
) -> QuotaStatusAnswer:
    """What the caller has left, by tier and period. What has no limit to speak of is left out."""
    owner = (principal.tenant_id, principal.user_id)
    limits = await context.policies.limits(*owner, context.policies.current_version(*owner))
    async with context.sessions() as session:
        status = await load_status(
            session,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            limits=limits,
            now=context.clock.now(),
            threshold=context.settings.quota.warning_threshold_pct,
        )
    return QuotaStatusAnswer.of(status)
