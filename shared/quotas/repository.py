"""Every statement that moves credits, on the rows of one user's buckets.

Rows are locked in the order of `BucketKey`, by whoever moves credits, and nobody else's rows are touched: turns of
different users wait for nothing here. Statements are built once; each is one round trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Date,
    Integer,
    Row,
    Select,
    String,
    Update,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    column,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningInsert

from shared.db.base import table_of
from shared.ids import new_uuid7
from shared.quotas.buckets import ALL_BUCKETS, TOTAL, BucketKey
from shared.quotas.reserve import Standing
from shared.quotas.settlement import Settlement
from shared.quotas.tables import QuotaUsage
from shared.turns.lifecycle import TokenUsage

_now = func.clock_timestamp
_TODAY_S_TOTAL: Final = BucketKey("daily", "total")
DAY_COUNTERS: Final = ("web_search_calls", "code_interpreter_calls", "image_inputs")


@dataclass(frozen=True, slots=True)
class Account:
    """The buckets of one user in the periods of one turn."""

    tenant_id: UUID
    user_id: UUID
    daily_start: date
    monthly_start: date

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant_id,
            "user": self.user_id,
            "daily_start": self.daily_start,
            "monthly_start": self.monthly_start,
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """What a turn adds to the counters of `total`, beside its tokens."""

    file_search_calls: int = 0
    web_search_calls: int = 0
    code_interpreter_calls: int = 0
    image_inputs: int = 0


def standing_columns() -> Select[*tuple[Any, ...]]:
    """One row, whatever there is: `used` of each bucket, then the counters of today. For a join into other reads."""
    used = [
        func.coalesce(
            func.max(QuotaUsage.spent_credits_micro + QuotaUsage.reserved_credits_micro).filter(
                QuotaUsage.period_type == key.period, QuotaUsage.bucket == key.bucket
            ),
            0,
        ).label(f"used_{index}")
        for index, key in enumerate(ALL_BUCKETS)
    ]
    today = and_(
        QuotaUsage.period_type == _TODAY_S_TOTAL.period,
        QuotaUsage.bucket == _TODAY_S_TOTAL.bucket,
    )
    counters = [
        func.coalesce(func.max(getattr(QuotaUsage, name)).filter(today), 0).label(name) for name in DAY_COUNTERS
    ]
    return select(*used, *counters).where(_is_of_account())


def standing_of(row: Mapping[str, Any]) -> Standing:
    """What `standing_columns` has read."""
    used = {key: row[f"used_{index}"] for index, key in enumerate(ALL_BUCKETS)}
    return Standing(used, *(row[name] for name in DAY_COUNTERS))


def _is_of_account() -> Any:
    return and_(
        QuotaUsage.tenant_id == bindparam("tenant", type_=Uuid),
        QuotaUsage.user_id == bindparam("user", type_=Uuid),
        or_(
            and_(QuotaUsage.period_type == "daily", QuotaUsage.period_start == bindparam("daily_start", type_=Date)),
            and_(
                QuotaUsage.period_type == "monthly",
                QuotaUsage.period_start == bindparam("monthly_start", type_=Date),
            ),
        ),
    )


def _reserve() -> ReturningInsert[*tuple[Any, ...]]:
    """Make the rows that are missing, lock all of them in the order given, and add to what they have reserved."""
    given = (
        func.unnest(
            bindparam("ids", type_=ARRAY(Uuid)),
            bindparam("periods", type_=ARRAY(String)),
            bindparam("starts", type_=ARRAY(Date)),
            bindparam("buckets", type_=ARRAY(String)),
            bindparam("amounts", type_=ARRAY(BigInteger)),
        )
        .table_valued(
            column("id", Uuid),
            column("period_type", String),
            column("period_start", Date),
            column("bucket", String),
            column("amount", BigInteger),
            with_ordinality="place",
            name="given",
        )
        .render_derived()
    )
    rows = select(
        given.c.id,
        bindparam("tenant", type_=Uuid),
        bindparam("user", type_=Uuid),
        given.c.period_type,
        given.c.period_start,
        given.c.bucket,
        given.c.amount,
        _now(),
    ).order_by(given.c.place)
    names = (
        "id",
        "tenant_id",
        "user_id",
        "period_type",
        "period_start",
        "bucket",
        "reserved_credits_micro",
        "updated_at",
    )
    statement = insert(table_of(QuotaUsage)).from_select(names, rows, include_defaults=False)
    return statement.on_conflict_do_update(
        constraint="uq_quota_usage_bucket",
        set_={
            "reserved_credits_micro": QuotaUsage.reserved_credits_micro + statement.excluded.reserved_credits_micro,
            "updated_at": _now(),
        },
    ).returning(
        QuotaUsage.period_type,
        QuotaUsage.bucket,
        QuotaUsage.spent_credits_micro,
        QuotaUsage.reserved_credits_micro,
        *(getattr(QuotaUsage, name) for name in DAY_COUNTERS),
    )


def _move_reserve() -> Update:
    """Change what the account's rows have reserved, which this transaction has locked already."""
    delta = case(
        (QuotaUsage.bucket == "total", bindparam("total_delta", type_=BigInteger)),
        else_=bindparam("premium_delta", type_=BigInteger),
    )
    return (
        update(QuotaUsage)
        .where(_is_of_account())
        .values(reserved_credits_micro=QuotaUsage.reserved_credits_micro + delta)
        .execution_options(synchronize_session=False)
    )


def _settle() -> Update:
    """Take the reserve out of the rows that are named and put the charge in; tells what they had reserved."""
    locked = (
        select(QuotaUsage.id, QuotaUsage.reserved_credits_micro.label("reserved_before"))
        .where(
            _is_of_account(),
            QuotaUsage.period_type + ":" + QuotaUsage.bucket == any_(bindparam("keys", type_=ARRAY(String))),
        )
        .order_by(QuotaUsage.period_type, QuotaUsage.bucket)
        .with_for_update()
        .cte("locked")
    )
    is_total = QuotaUsage.bucket == "total"

    def in_total(name: str) -> Any:
        return getattr(QuotaUsage, name) + case((is_total, bindparam(f"{name}_delta", type_=BigInteger)), else_=0)

    counted = ("input_tokens", "output_tokens", "file_search_calls", *DAY_COUNTERS)
    return (
        update(QuotaUsage)
        .where(QuotaUsage.id == locked.c.id)
        .values(
            reserved_credits_micro=func.greatest(
                QuotaUsage.reserved_credits_micro - bindparam("reserve", type_=BigInteger), 0
            ),
            spent_credits_micro=QuotaUsage.spent_credits_micro + bindparam("charge", type_=BigInteger),
            calls=QuotaUsage.calls + bindparam("calls_delta", type_=Integer),
            updated_at=_now(),
            **{name: in_total(name) for name in counted},
        )
        .returning(QuotaUsage.period_type, QuotaUsage.bucket, locked.c.reserved_before)
        .execution_options(synchronize_session=False)
    )


def _count_image_upload() -> Update:
    return (
        update(QuotaUsage)
        .where(_is_of_account(), QuotaUsage.bucket == "total")
        .values(
            image_upload_bytes=QuotaUsage.image_upload_bytes + bindparam("size_bytes", type_=BigInteger),
            updated_at=_now(),
        )
        .execution_options(synchronize_session=False)
    )


_RESERVE = _reserve()
_MOVE_RESERVE = _move_reserve()
_SETTLE = _settle()
_COUNT_IMAGE_UPLOAD = _count_image_upload()


class QuotaRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def reserve(self, account: Account, amounts: Mapping[BucketKey, int]) -> Standing:
        """Lock the buckets named, today's total among them, and add to their reserves, zero included.

        Returns:
            Where the user stood before, of the buckets named: now it cannot change until the transaction ends.
        """
        rows = await self._lock(account, amounts)
        used = {key: row.spent_credits_micro + row.reserved_credits_micro - amounts[key] for key, row in rows.items()}
        today = rows[_TODAY_S_TOTAL]
        return Standing(used, *(getattr(today, name) for name in DAY_COUNTERS))

    async def move_reserve(self, account: Account, deltas: Mapping[BucketKey, int]) -> None:
        """Change by so much what `reserve` has just reserved in the same buckets."""
        by_bucket = {key.bucket: delta for key, delta in deltas.items()}  # the same in both periods
        values = {"total_delta": by_bucket["total"], "premium_delta": by_bucket.get("tier:premium", 0)}
        await self._session.execute(_MOVE_RESERVE, account.parameters | values)

    async def count_image_upload(self, account: Account, size_bytes: int) -> None:
        """Add to the bytes of images that the account's user has uploaded; nothing is charged for them."""
        await self._lock(account, dict.fromkeys(TOTAL, 0))
        await self._session.execute(_COUNT_IMAGE_UPLOAD, account.parameters | {"size_bytes": size_bytes})

    async def settle(
        self, account: Account, keys: Iterable[BucketKey], *, reserve: int, settlement: Settlement, counts: Counts
    ) -> list[BucketKey]:
        """Take `reserve` out of the buckets and charge the settlement to them.

        Returns:
            Those that had less than `reserve` to give; they have nothing reserved now.
        """
        usage = settlement.usage or TokenUsage()
        parameters = account.parameters | {
            "reserve": reserve,
            "charge": settlement.credits_micro,
            "calls_delta": int(settlement.is_charged),
            "input_tokens_delta": usage.input_tokens,
            "output_tokens_delta": usage.output_tokens,
            "file_search_calls_delta": counts.file_search_calls,
            "web_search_calls_delta": counts.web_search_calls,
            "code_interpreter_calls_delta": counts.code_interpreter_calls,
            "image_inputs_delta": counts.image_inputs,
        }
        keys = set(keys)
        before = await self._settle(keys, parameters)
        missing = keys - before.keys()
        if missing:
            # Somebody has removed rows of a running turn: what it has cost must be counted all the same.
            await self._lock(account, dict.fromkeys(missing, 0))
            before |= await self._settle(missing, parameters)
        return [key for key, reserved in before.items() if reserved < reserve]

    async def _lock(self, account: Account, amounts: Mapping[BucketKey, int]) -> dict[BucketKey, Row[Any]]:
        keys = sorted(amounts)
        parameters = {
            "tenant": account.tenant_id,
            "user": account.user_id,
            "ids": [new_uuid7() for _ in keys],
            "periods": [key.period for key in keys],
            "starts": [account.daily_start if key.period == "daily" else account.monthly_start for key in keys],
            "buckets": [key.bucket for key in keys],
            "amounts": [amounts[key] for key in keys],
        }
        rows = (await self._session.execute(_RESERVE, parameters)).all()
        return {BucketKey(row.period_type, row.bucket): row for row in rows}

    async def _settle(self, keys: Iterable[BucketKey], parameters: Mapping[str, Any]) -> dict[BucketKey, int]:
        named = {"keys": [f"{key.period}:{key.bucket}" for key in keys]}
        rows = (await self._session.execute(_SETTLE, {**parameters, **named})).all()
        return {BucketKey(row.period_type, row.bucket): row.reserved_before for row in rows}
