"""Policies as they are stored, one row a version, written once.

The hash decides whether two catalogs of one version are the same policy. It leaves out `providers`, which say how a
process reaches them and may differ from place to place, and members at their defaults, so that processes of two
releases agree on a file of which one knows more members. The payload has everything; a reader skips what it does not
know. Credentials are references in a catalog, so none is stored.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

import orjson
from pydantic import ValidationError
from sqlalchemy import BigInteger, bindparam, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.engine import Sessions
from shared.model_catalog.catalog import Catalog
from shared.quotas.tables import PolicySnapshot
from shared.settings import ConfigurationError, describe_validation_error

_INSERT: Final = insert(PolicySnapshot).on_conflict_do_nothing(index_elements=["policy_version"])
_IS_VERSION: Final = PolicySnapshot.policy_version == bindparam("version", type_=BigInteger)
_SELECT_HASH: Final = select(PolicySnapshot.content_hash).where(_IS_VERSION)
_SELECT_PAYLOAD: Final = select(PolicySnapshot.payload).where(_IS_VERSION)


def content_hash(catalog: Catalog) -> str:
    content = catalog.model_dump(mode="json", exclude={"providers"}, exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def store_snapshot(sessions: Sessions, catalog: Catalog, *, now: datetime) -> None:
    """Make sure that the policy is stored under its version, whoever else is storing it.

    Raises:
        ConfigurationError: the version is stored with another content.
        Exception: the database is away, or has not been migrated yet.
    """
    wanted = content_hash(catalog)
    async with sessions.begin() as session:
        await session.execute(
            _INSERT,
            {
                "policy_version": catalog.policy_version,
                "payload": catalog.model_dump(mode="json"),
                "content_hash": wanted,
                "created_at": now,
            },
        )
        # Whoever came second has waited for the first one's commit, and reads it here.
        stored = await find_hash(session, catalog.policy_version)
    if stored != wanted:
        raise ConfigurationError(
            f"policy_version: {catalog.policy_version} is stored with another content; raise it to publish this catalog"
        )


async def find_hash(session: AsyncSession, version: int) -> str | None:
    """The hash of the content that is stored under a version."""
    found: str | None = await session.scalar(_SELECT_HASH, {"version": version})
    return found


async def load_snapshot(sessions: Sessions, version: int) -> Catalog:
    """
    Raises:
        LookupError: the version has never been stored, or by a release with other rules.
    """
    async with sessions() as session:
        payload = await session.scalar(_SELECT_PAYLOAD, {"version": version})
    if payload is None:
        raise LookupError(f"policy version {version} is unknown")
    try:
        return Catalog.model_validate(payload, extra="ignore")
    except ValidationError as error:
        # Its turns must end all the same.
        raise LookupError(f"policy version {version} cannot be read: {describe_validation_error(error)}") from None


class StoredPolicies:
    """Policies as they are stored, for whoever settles turns and accepts none."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def snapshot(self, version: int) -> Catalog:
        return await load_snapshot(self._sessions, version)
