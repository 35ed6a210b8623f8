"""The connection pool to PostgreSQL and the sessions on it.

A use case opens `async with sessions.begin() as session`: the block is the transaction. Isolation is READ COMMITTED;
what must hold under concurrency is guarded by row locks, compare-and-set and unique indexes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from shared.ids import new_uuid4
from shared.settings import ConfigurationError, DatabaseSettings

Sessions = async_sessionmaker[AsyncSession]

CONNECT_TIMEOUT_SECS = 5
POOL_TIMEOUT_SECS = 10
"""How long a request waits for a connection in a burst before it is refused."""
COMMAND_TIMEOUT_SECS = 30
"""No statement of ours runs this long; a server that does not answer is treated as away."""

# Shutting down, crashed, starting up; read-only after a failover; a time limit or a lock that was not had; the victim
# of a deadlock or of serialization. Classes 08 and 53 are lost connections and used-up resources. All of them pass.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_AWAY_STATES = {"57P01", "57P02", "57P03", "25006", "57014", "55P03", "40001", "40P01"}
_AWAY_CLASSES = ("08", "53")

DATABASE_AWAY = (OperationalError, InterfaceError, OSError, TimeoutError)
"""What a query raises while PostgreSQL cannot be reached, shuts down or starts up."""


def database_url(settings: DatabaseSettings) -> str:
    """The URL in SQLAlchemy's form.

    Raises:
        ConfigurationError: `database.url` is not set.
    """
    if settings.url is None:
        raise ConfigurationError("database.url: not set. Set MINI_CHAT_DATABASE__URL")
    url = make_url(settings.url.get_secret_value()).set(drivername="postgresql+asyncpg")
    return url.render_as_string(hide_password=False)


def create_engine(
    settings: DatabaseSettings, *, pool_size: int | None = None, has_time_limit: bool = True
) -> AsyncEngine:
    """
    Args:
        has_time_limit: without it a statement may take as long as it takes: an index on a large table takes minutes.
    """
    size = pool_size or settings.pool_size
    connect_args: dict[str, object] = {
        "timeout": CONNECT_TIMEOUT_SECS,
        "command_timeout": COMMAND_TIMEOUT_SECS if has_time_limit else None,
        "server_settings": {"application_name": "mini-chat", "timezone": "UTC"},
    }
    if not settings.statement_cache:
        # A transaction pooler hands each transaction another server connection, where our statements are unknown.
        connect_args |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__mini_chat_{new_uuid4()}__",
        }
    engine = create_async_engine(
        database_url(settings),
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECS,
        pool_recycle=1_800,
        hide_parameters=True,  # they hold what users write, and errors are logged
        connect_args=connect_args,
    )
    event.listen(engine.sync_engine, "checkout", _require_open)
    return engine


def _require_open(_connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """A restarted server leaves dead connections in the pool: the first request after it must not pay for them.

    asyncpg notices a closed socket by itself, so a look does it; a ping costs three round trips for each transaction.
    """
    if record.driver_connection is None or record.driver_connection.is_closed():
        raise DisconnectionError("the server has closed the connection")


@asynccontextmanager
async def single_statement(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A session for one statement, which is a transaction by itself: no round trips to begin and to commit."""
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        yield session


def create_sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False, autoflush=False)


@asynccontextmanager
async def open_database(settings: DatabaseSettings) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """Open the pool for the length of the block. Connections are made on first use, not here."""
    engine = create_engine(settings)
    try:
        yield engine, create_sessions(engine)
    finally:
        await engine.dispose()


def is_database_away(error: BaseException) -> bool:
    """Whether `error` says that PostgreSQL cannot do it right now, as against a fault of the statement."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or state.startswith(_AWAY_CLASSES) or state in _AWAY_STATES:
            return True
    return isinstance(error, DATABASE_AWAY)
