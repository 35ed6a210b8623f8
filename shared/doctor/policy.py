"""Whether the catalog can be put in force: a version of a policy is stored once, and never with another content."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from shared.doctor.findings import Finding, fail, ok
from shared.model_catalog.catalog import Catalog
from shared.policy.snapshots import content_hash, find_hash


async def check_policy(session: AsyncSession, catalog: Catalog) -> Finding:
    version = catalog.policy_version
    stored = await find_hash(session, version)
    if stored is not None and stored != content_hash(catalog):
        seen = f"version {version} is stored with another content: processes refuse the catalog"
        return fail("policy", seen, "raise policy_version in the catalog")
    return ok("policy", f"version {version} is {'new' if stored is None else 'stored'}")
