"""PostgreSQL: its version, its schema, and whether it has connections for everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.migrate import read_revisions
from shared.doctor.findings import Finding, fail, ok, warn
from shared.settings import Settings

OLDEST_VERSION: Final = 140_000
"""As `server_version_num`; what is older gets no fixes any more."""
FEWEST_PROCESSES: Final = 2
"""One API and one worker."""
CROWDED: Final = 0.9

_SERVER: Final = text(
    "SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery()"
)
_CONNECTIONS: Final = text(
    """
    SELECT
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0) AS usable,
        -- Of what any user may see of the sessions of others: a client has a user and a database.
        (SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL) AS used,
        (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mini-chat') AS ours
    """
)


async def check_postgres(session: AsyncSession, settings: Settings) -> AsyncIterator[Finding]:
    """Raises what the database raises if it cannot be asked."""
    version, number, is_standby = (await session.execute(_SERVER)).one()
    if is_standby:
        yield fail("postgresql", f"PostgreSQL {version}, a read-only standby", "point database.url at the primary")
    elif number < OLDEST_VERSION:
        yield warn("postgresql", f"PostgreSQL {version}", "use 14 or newer: older ones get no fixes any more")
    else:
        yield ok("postgresql", f"PostgreSQL {version}")
    yield await _check_migrations(session)
    yield await _check_connections(session, settings.database.pool_size)


async def _check_migrations(session: AsyncSession) -> Finding:
    revisions = await read_revisions(session)
    if not revisions.is_current:
        found = "no schema" if revisions.found is None else f"the schema is at {revisions.found}"
        return fail("migrations", f"{found}, this build needs {revisions.needed}", "run `mini-chat migrate`")
    newer = ", of a newer release" if revisions.is_newer else ""
    return ok("migrations", f"the schema is at {revisions.found}{newer}")


async def _check_connections(session: AsyncSession, pool_size: int) -> Finding:
    usable, used, ours = (await session.execute(_CONNECTIONS)).one()
    fits = usable // pool_size
    seen = f"{used} of {usable} connections in use, {ours} by mini-chat; pools of {pool_size} fit {fits} processes"
    if fits < FEWEST_PROCESSES:
        change = "raise max_connections, lower database.pool_size, or put a pooler between"
        return fail("connections", seen, change)
    if used > CROWDED * usable:
        return warn("connections", seen, "raise max_connections, or find out who holds them (pg_stat_activity)")
    return ok("connections", seen)
