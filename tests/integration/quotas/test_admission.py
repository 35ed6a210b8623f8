"""What a send is refused for, in which order, and what an accepted one stores: on real engines, without a worker."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from api.turns.attached import check_attachments
from shared.attachments.tables import ChatVectorStore
from shared.errors import ChatError
from shared.ids import new_uuid4, new_uuid7
from shared.quotas.credits import MAX_TOKENS, CreditsOverflowError
from shared.quotas.repository import QuotaRepository
from shared.turns.errors import InvalidAttachmentError
from shared.turns.lifecycle import Ending, TokenUsage
from tests.integration.api.rows import store_attachment
from tests.integration.quotas.conftest import OpenLedger
from tests.support.catalogs import DISABLED, NANO, PREMIUM, STANDARD, acceptance_catalog
from tests.support.ledger import Ledger
from tests.support.statements import noted_statements
from tests.support.tokens import Caller

IMAGE = {"attachment_kind": "image", "content_type": "image/png", "for_file_search": False, "size_bytes": 1_000}
SHEET = {"for_file_search": False, "for_code_interpreter": True}


async def store_vector_store(ledger: Ledger, chat_id: UUID, ann: Caller, *, store_id: str | None = "vs_1") -> None:
    async with ledger.context.sessions.begin() as session:
        session.add(
            ChatVectorStore(
                id=new_uuid7(),
                tenant_id=ann.tenant_id,
                chat_id=chat_id,
                vector_store_id=store_id,
                provider="openai",
                created_at=ledger.clock.now(),
            )
        )


async def attach_images(ledger: Ledger, chat_id: UUID, ann: Caller, count: int) -> tuple[UUID, ...]:
    images = [await store_attachment(ledger.context.sessions, str(chat_id), ann, **IMAGE) for _ in range(count)]
    return tuple(image.id for image in images)


async def refusal_of(ledger: Ledger, ann: Caller, chat_id: UUID, content: str = "?", **options: Any) -> str:
    with pytest.raises(ChatError) as refused:
        await ledger.send(ann, chat_id, content, **options)
    scope = getattr(refused.value, "quota_scope", None)
    return refused.value.code if scope is None else f"{refused.value.code}: {scope}"


async def count_in_day(ledger: Ledger, ann: Caller, **counters: int) -> None:
    """Have the user used so much today."""
    turn = await ledger.send(ann, await ledger.new_chat(ann))
    await ledger.end(turn, Ending.failed("validation_error", provider_started=False))
    for name, value in counters.items():
        await ledger.database.execute(f"UPDATE quota_usage SET {name} = $1 WHERE bucket = 'total'", value)  # noqa: S608


async def test_tools_are_included_by_what_the_chat_holds(ledger: Ledger, ann: Caller) -> None:
    """And stored, so that the worker offers none that was not counted."""
    seen = []
    for documents, store, sheets in ((1, "vs_1", 0), (1, None, 0), (0, "vs_1", 1), (1, "vs_1", 1)):
        chat_id = await ledger.new_chat(ann)
        for _ in range(documents):
            await store_attachment(ledger.context.sessions, str(chat_id), ann)
        for _ in range(sheets):
            await store_attachment(ledger.context.sessions, str(chat_id), ann, **SHEET)
        await store_vector_store(ledger, chat_id, ann, store_id=store)
        turn = await ledger.send(ann, chat_id)
        estimate = (turn.reserve_tokens or 0) - (turn.max_output_tokens_applied or 0)
        seen.append((turn.file_search_included, turn.code_interpreter_included, estimate - 552))
        await ledger.end(turn, Ending.failed("validation_error", provider_started=False))
    assert seen == [(True, False, 200), (False, False, 0), (False, True, 1_000), (True, True, 1_200)]


async def test_a_model_without_tools_is_offered_none_and_none_is_counted(ledger: Ledger, ann: Caller) -> None:
    chat_id = await ledger.new_chat(ann, model=NANO)
    await store_attachment(ledger.context.sessions, str(chat_id), ann, **SHEET)
    turn = await ledger.send(ann, chat_id)
    assert not turn.code_interpreter_included


async def test_the_newest_counted_answer_is_prior_context(ledger: Ledger, ann: Caller) -> None:
    chat_id = await ledger.new_chat(ann)
    # The last two say nothing: not counted, and too absurd to be charged.
    for usage in (TokenUsage(10, 5), TokenUsage(1_500, 200), None, TokenUsage(MAX_TOKENS + 1, 10**15)):
        await ledger.end(await ledger.send(ann, chat_id), Ending.completed(text="Hi", usage=usage, response_id=None))
    turn = await ledger.send(ann, chat_id)
    assert (turn.reserve_tokens or 0) - (turn.max_output_tokens_applied or 0) == 552 + 1_700


@pytest.mark.parametrize(
    ("images", "changes", "switches", "expected"),
    [
        (5, {}, {}, "too_many_images"),
        (5, {}, {"disable_images": True}, "too_many_images"),  # counted before it is asked whether there may be any
        (1, {}, {"disable_images": True}, "images_disabled"),
        (2, {"max_total_image_bytes_per_turn": 1_999}, {}, "image_bytes_exceeded"),
        (3, {"max_image_inputs_per_user_per_day": 2}, {}, "quota_exceeded: image_inputs"),
    ],
)
async def test_images_are_refused(
    open_with: OpenLedger, ann: Caller, images: int, changes: dict[str, int], switches: dict[str, bool], expected: str
) -> None:
    async with open_with(acceptance_catalog() | {"kill_switches": switches}, rag=changes) as ledger:
        chat_id = await ledger.new_chat(ann)
        ids = await attach_images(ledger, chat_id, ann, images)
        assert await refusal_of(ledger, ann, chat_id, attachment_ids=ids) == expected
        assert await ledger.buckets(ann) == {}


async def test_images_are_counted_and_paid_for(open_with: OpenLedger, ann: Caller) -> None:
    changes = {"max_total_image_bytes_per_turn": 2_000, "max_image_inputs_per_user_per_day": 2}
    async with open_with(acceptance_catalog(), rag=changes) as ledger:
        chat_id = await ledger.new_chat(ann)
        ids = await attach_images(ledger, chat_id, ann, 2)
        turn = await ledger.send(ann, chat_id, attachment_ids=ids)
        assert turn.image_inputs == 2
        assert (turn.reserve_tokens or 0) - (turn.max_output_tokens_applied or 0) == 552 + 2 * 1_000
        await ledger.end(turn, Ending.completed(text="Hi", usage=TokenUsage(5, 5), response_id=None))
        assert await refusal_of(ledger, ann, chat_id, attachment_ids=ids[:1]) == "quota_exceeded: image_inputs"
        assert (await ledger.send(ann, chat_id)).image_inputs == 0


async def test_day_limits_of_tools_bind_those_who_use_them(ledger: Ledger, ann: Caller) -> None:
    await count_in_day(ledger, ann, web_search_calls=75, code_interpreter_calls=50)
    chat_id = await ledger.new_chat(ann)
    assert await refusal_of(ledger, ann, chat_id, is_web_search_wanted=True) == "quota_exceeded: web_search"
    await ledger.end(await ledger.send(ann, chat_id), Ending.failed("provider_error", provider_started=True))
    await store_attachment(ledger.context.sessions, str(chat_id), ann, **SHEET)
    assert await refusal_of(ledger, ann, chat_id) == "quota_exceeded: code_interpreter"


@pytest.mark.parametrize(
    ("switch", "reason"),
    [("force_standard_tier", "force_standard_tier"), ("disable_premium_tier", "disable_premium_tier")],
)
async def test_a_switch_against_premium_downgrades(
    open_with: OpenLedger, ann: Caller, switch: str, reason: str
) -> None:
    async with open_with(acceptance_catalog() | {"kill_switches": {switch: True}}) as ledger:
        turn = await ledger.send(ann, await ledger.new_chat(ann, model=PREMIUM))
        assert (turn.effective_model, turn.downgrade_from, turn.downgrade_reason) == (STANDARD, PREMIUM, reason)
        assert {
            row["reserved_credits_micro"] for key, row in (await ledger.buckets(ann)).items() if "premium" in key[1]
        } == {0}
        assert await ledger.differences() == []


async def test_a_disabled_model_downgrades(ledger: Ledger, ann: Caller) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann, model=DISABLED))
    assert (turn.effective_model, turn.downgrade_reason) == (STANDARD, "model_disabled")


async def test_switches_against_tools(open_with: OpenLedger, ann: Caller) -> None:
    """Web search is refused, never silently left out; the others are left out and not paid for."""
    switches = {"disable_web_search": True, "disable_file_search": True, "disable_code_interpreter": True}
    async with open_with(acceptance_catalog() | {"kill_switches": switches}) as ledger:
        chat_id = await ledger.new_chat(ann)
        await store_attachment(ledger.context.sessions, str(chat_id), ann)
        await store_attachment(ledger.context.sessions, str(chat_id), ann, **SHEET)
        await store_vector_store(ledger, chat_id, ann)
        assert await refusal_of(ledger, ann, chat_id, is_web_search_wanted=True) == "web_search_disabled"
        turn = await ledger.send(ann, chat_id)
        assert (turn.file_search_included, turn.code_interpreter_included) == (False, False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("x" * 500_000, "input_too_long"), ("x" * 421_500, "context_budget_exceeded")],
)
async def test_too_much_text_is_refused(open_with: OpenLedger, ann: Caller, content: str, expected: str) -> None:
    tree = acceptance_catalog()
    for model in tree["model_catalog"]:
        model["context_window"] = 125_000
    async with open_with(tree) as ledger:
        assert await refusal_of(ledger, ann, await ledger.new_chat(ann), content) == expected


async def test_quotas_are_looked_at_before_the_length(open_with: OpenLedger, ann: Caller) -> None:
    limits = {"limit_daily_credits_micro": 10, "limit_monthly_credits_micro": 10}
    async with open_with(acceptance_catalog() | {"default_standard_limits": limits}) as ledger:
        chat_id = await ledger.new_chat(ann)
        assert await refusal_of(ledger, ann, chat_id, "x" * 500_000) == "quota_exceeded: tokens"


async def test_a_reserve_out_of_bounds_is_an_error_and_leaves_nothing(open_with: OpenLedger, ann: Caller) -> None:
    tree = acceptance_catalog()
    for model in tree["model_catalog"]:
        model["max_output_tokens"] = 10_000_001
    async with open_with(tree, streaming={"max_output_tokens": 20_000_000}) as ledger:
        with pytest.raises(CreditsOverflowError):
            await ledger.send(ann, await ledger.new_chat(ann))
        assert await ledger.buckets(ann) == {}
        assert ledger.context.metrics.registry.get_sample_value("mini_chat_credits_overflow_total") == 1


async def test_an_attachment_that_goes_meanwhile_is_noticed(
    ledger: Ledger, ann: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_id = await ledger.new_chat(ann)
    attachment = await store_attachment(ledger.context.sessions, str(chat_id), ann)
    checked: list[bool] = []

    async def delete_after_first_check(session: Any, ids: Any, **options: Any) -> Any:
        images = await check_attachments(session, ids, **options)
        if not checked:
            checked.append(True)
            await ledger.database.execute("UPDATE attachments SET deleted_at = now() WHERE id = $1", attachment.id)
        return images

    monkeypatch.setattr("api.turns.preflight.check_attachments", delete_after_first_check)
    with pytest.raises(InvalidAttachmentError):
        await ledger.send(ann, chat_id, attachment_ids=(attachment.id,))
    assert await ledger.buckets(ann) == {}


@pytest.mark.parametrize("early_is_premium", [True, False])
async def test_what_the_locked_rows_say_counts(
    ledger: Ledger, ann: Caller, monkeypatch: pytest.MonkeyPatch, early_is_premium: bool
) -> None:
    """Premium credit goes, or comes back, between the early look and the lock: the reserve follows the lock."""
    chat_id = await ledger.new_chat(ann, model=PREMIUM)
    await ledger.end(await ledger.send(ann, chat_id), Ending.failed("validation_error", provider_started=False))
    set_premium = (
        "UPDATE quota_usage SET spent_credits_micro = $1 WHERE bucket = 'tier:premium' AND period_type = 'daily'"
    )
    await ledger.database.execute(set_premium, 0 if early_is_premium else 50_000_000)
    reserve = QuotaRepository.reserve

    async def change_and_reserve(self: QuotaRepository, *args: Any) -> Any:
        await ledger.database.execute(set_premium, 50_000_000 if early_is_premium else 0)
        return await reserve(self, *args)

    monkeypatch.setattr(QuotaRepository, "reserve", change_and_reserve)
    turn = await ledger.send(ann, chat_id)
    assert turn.effective_model == (STANDARD if early_is_premium else PREMIUM)
    rows = await ledger.buckets(ann)
    in_premium = 0 if early_is_premium else turn.reserved_credits_micro
    assert {key: row["reserved_credits_micro"] for key, row in rows.items()} == {
        ("daily", "total"): turn.reserved_credits_micro,
        ("monthly", "total"): turn.reserved_credits_micro,
        ("daily", "tier:premium"): in_premium,
        ("monthly", "tier:premium"): in_premium,
    }
    await ledger.database.execute(set_premium, 0)


async def test_a_send_and_an_end_take_few_round_trips(ledger: Ledger, ann: Caller) -> None:
    """Statements between BEGIN and COMMIT: three for a send, three for an end with its answer; one read before."""
    chat_id = await ledger.new_chat(ann)
    engine = ledger.context.engine.sync_engine
    with noted_statements(engine) as of_send:
        turn = await ledger.send(ann, chat_id)
    assert len(of_send) == 1 + 3, of_send
    with noted_statements(engine) as of_end:
        await ledger.end(turn, Ending.completed(text="Hi", usage=TokenUsage(5, 5), response_id=str(new_uuid4())))
    assert len(of_end) == 3, of_end
