"""Every range of the configuration: what lies at its edge is taken, what lies beyond stops the start by its key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.cli import main
from shared.console import EXIT_CONFIGURATION
from shared.run.environment import variable_of
from shared.settings import ConfigurationError, load_settings
from tests.support.settings_reference import list_settings

Values = tuple[str, ...]

ANY_INTEGER_BUT = ("x", "1.5", "true", "[]")
BOOLEAN = (("true", "false"), ("maybe", "2", "[]"))
PORT = (("0", "65535"), ("-1", "65536", *ANY_INTEGER_BUT))
ANY_TEXT: tuple[Values, Values] = (("x",), ())


def integer(low: int, high: int | None = None) -> tuple[Values, Values]:
    good, bad = (str(low),), (str(low - 1), *ANY_INTEGER_BUT)
    return (good, bad) if high is None else ((*good, str(high)), (*bad, str(high + 1)))


def number(low: float, high: float | None = None) -> tuple[Values, Values]:
    good, bad = (str(low),), (str(low - 0.001), "x", "nan", "inf", "-inf")
    return (good, bad) if high is None else ((*good, str(high)), (*bad, str(high + 0.001)))


def one_of(*choices: str) -> tuple[Values, Values]:
    return choices, ("other", choices[0].upper())


POSITIVE = integer(1)
NOT_NEGATIVE = integer(0)
UP_TO_A_DAY = (("0.001", "86400"), ("0", "-1", "86401", "x", "nan", "inf"))
UUID = (("00000000-0000-4000-8000-00000000000a",), ("x", "1"))

RANGES: dict[str, tuple[Values, Values]] = {
    "prefix": (("", "/ai", "/a/b"), ("ai", "/", "/ai/", "/a b", "/a?b")),
    "base_path": (("/v1", "/mini-chat/v1"), ("v1", "/", "/v1/")),
    "host": (("127.0.0.1", "::1"), ()),
    "port": PORT,
    "data_dir": ANY_TEXT,
    "allow_http_providers": BOOLEAN,
    "auth.mode": one_of("jwt", "dev"),
    "auth.dev_on_any_host": BOOLEAN,
    "auth.dev_tenant_id": UUID,
    "auth.dev_user_id": UUID,
    "auth.license_feature": ANY_TEXT,
    "auth.jwt.issuer": ANY_TEXT,
    "auth.jwt.audience": ANY_TEXT,
    "auth.jwt.jwks_url": ANY_TEXT,  # checked where it is used: `tests/unit/api/test_auth.py`
    "auth.jwt.key": ANY_TEXT,
    "auth.jwt.algorithms": (
        ('["RS256", "ES512"]',),
        ('["none"]', '["HS1"]', "[]", '["HS256"]', "RS256", '["rs256"]'),
    ),
    "auth.jwt.leeway_secs": integer(0, 600),
    "auth.jwt.tenant_claim": ANY_TEXT,
    "auth.jwt.user_claim": ANY_TEXT,
    "auth.jwt.scope_claim": ANY_TEXT,
    "auth.jwt.features_claim": ANY_TEXT,
    "streaming.sse_ping_interval_seconds": integer(5, 60),
    "streaming.sse_channel_capacity": integer(16, 64),
    "streaming.max_output_tokens": (("50",), ("0", "-1", "49", *ANY_INTEGER_BUT)),
    "streaming.web_search_context_size": one_of("low", "medium", "high"),
    "streaming.on_disconnect": one_of("continue", "cancel"),
    "streaming.disconnect_grace_secs": number(0, 300),
    "event_log.ttl_secs": integer(1, 86_400),
    "event_log.max_entries": integer(1_000),
    "turns.max_attempts": integer(1, 10),
    "turns.lease_secs": number(3, 60),
    "turns.on_worker_loss": one_of("restart", "fail"),
    "turns.total_timeout_secs": (("5", "3599"), ("4", "3601", "3600", *ANY_INTEGER_BUT)),
    "turns.max_age_secs": (("901", "86400"), ("900", "9", "86401", *ANY_INTEGER_BUT)),
    "relay.fast_path": BOOLEAN,
    "worker.max_jobs": POSITIVE,
    "worker.drain_secs": number(0, 600),
    "worker.poll_delay_ms": integer(10, 5_000),
    "estimation_budgets.bytes_per_token_conservative": POSITIVE,
    "estimation_budgets.fixed_overhead_tokens": NOT_NEGATIVE,
    "estimation_budgets.safety_margin_pct": NOT_NEGATIVE,
    "estimation_budgets.image_token_budget": NOT_NEGATIVE,
    "estimation_budgets.tool_surcharge_tokens": NOT_NEGATIVE,
    "estimation_budgets.web_search_surcharge_tokens": NOT_NEGATIVE,
    "estimation_budgets.code_interpreter_surcharge_tokens": NOT_NEGATIVE,
    "estimation_budgets.minimal_generation_floor": integer(1, 32_768),
    "quota.overshoot_tolerance_factor": number(1.0, 1.5),
    "quota.warning_threshold_pct": integer(1, 99),
    "quota.web_search_max_calls_per_message": POSITIVE,
    "quota.web_search_daily_quota": POSITIVE,
    "quota.code_interpreter_max_calls_per_message": POSITIVE,
    "quota.code_interpreter_daily_quota": POSITIVE,
    "context.recent_messages_limit": integer(0, 100),
    "context.web_search_guard": ANY_TEXT,
    "context.file_search_guard": ANY_TEXT,
    "rag.max_documents_per_chat": POSITIVE,
    "rag.max_total_upload_mb_per_chat": POSITIVE,
    "rag.uploaded_file_max_size_kb": POSITIVE,
    "rag.uploaded_image_max_size_kb": POSITIVE,
    "rag.allow_csv_upload": BOOLEAN,
    "rag.max_images_per_message": POSITIVE,
    "rag.max_concurrent_uploads": integer(1, 256),
    "rag.max_image_inputs_per_user_per_day": NOT_NEGATIVE,
    "rag.max_upload_bytes_per_user_per_day": NOT_NEGATIVE,
    "rag.max_total_image_bytes_per_turn": NOT_NEGATIVE,
    "thumbnail.width": POSITIVE,
    "thumbnail.height": POSITIVE,
    "thumbnail.max_bytes": POSITIVE,
    "thumbnail.max_pixels": POSITIVE,
    "thumbnail.max_decode_bytes": POSITIVE,
    "doc_summary.enabled": BOOLEAN,
    "doc_summary.model_id": ANY_TEXT,
    "orphan_watchdog.enabled": BOOLEAN,
    "orphan_watchdog.scan_interval_secs": UP_TO_A_DAY,
    "orphan_watchdog.timeout_secs": integer(10, 3_600),
    "thread_summary_worker.enabled": BOOLEAN,
    "thread_summary_worker.compression_threshold_pct": integer(1, 99),
    "thread_summary_worker.max_attempts": POSITIVE,
    "thread_summary_worker.message_content_limit": NOT_NEGATIVE,
    "thread_summary_worker.summary_model_id": ANY_TEXT,
    "thread_summary_worker.summary_system_prompt": ANY_TEXT,
    "cleanup_worker.enabled": BOOLEAN,
    "cleanup_worker.max_attempts": POSITIVE,
    "cleanup_worker.batch_size": POSITIVE,
    "cleanup_worker.poll_interval_secs": UP_TO_A_DAY,
    "outbox.partitions": (("1", "2", "64"), ("0", "3", "48", "128", *ANY_INTEGER_BUT)),
    "outbox.poll_interval_ms": integer(1, 86_400_000),
    "outbox.lease_secs": UP_TO_A_DAY,
    "outbox.backoff_base_secs": UP_TO_A_DAY,
    "outbox.backoff_max_secs": UP_TO_A_DAY,
    "outbox.max_attempts": POSITIVE,
    "outbox.retention_hours": integer(1, 876_000),
    "retention.chat_grace_days": integer(0, 36_500),
    "metrics.prefix": (("mini_chat", "a1"), ("1a", "a-b", "A", "a b")),
    "metrics.api_port": PORT,
    "metrics.worker_port": PORT,
    "demo_provider.port": integer(1, 65_535),
    "usage_sink.kind": (("log",), ("file", "http")),
    "usage_sink.url": (("https://billing.example/usage",), ("billing.example", "ftp://x", "http://")),
    "usage_sink.secret": (("any text", "whsec_c2VjcmV0"), ("whsec_", "whsec_!")),
    "audit_sink.kind": (("log",), ("file", "http")),
    "audit_sink.url": (("https://audit.example/",), ("x", "http://h:port")),
    "audit_sink.secret": (("any text",), ("whsec_",)),
    "audit.include_content": BOOLEAN,
    "tracing.otlp_endpoint": (("http://collector:4318",), ()),
    "cors.allow_origins": (
        ("[]", '["*"]', '["https://chat.example", "http://localhost:5173"]'),
        ('["chat.example"]', '["https://chat.example/"]', '["https://Chat.example"]', '["null"]', "https://a.example"),
    ),
    "page.enabled": BOOLEAN,
    "drain.lead_secs": number(0, 86_400),
    "catalog.path": ANY_TEXT,
    "catalog.reload_secs": number(0, 86_400),
    "limits.requests_per_second": (("0", "0.001", "1000000"), ("-1", "0.0009", "1000001", "x", "nan", "inf")),
    "limits.burst": integer(0, 1_000_000),
    "limits.concurrent_streams_per_user": NOT_NEGATIVE,
    "limits.concurrent_turns_per_user": NOT_NEGATIVE,
    "limits.max_queued_turns": NOT_NEGATIVE,
    "limits.fail_open": BOOLEAN,
    "database.url": (("postgresql://u:p@h:5432/d",), ("mysql://h/d", "h", "postgresql://h:99999/d")),
    "database.pool_size": POSITIVE,
    "database.statement_cache": BOOLEAN,
    "redis.url": (("redis://h", "rediss://h:1/2", "unix:///s"), ("http://h", "h", "redis://h:x", "redis://h/db")),
    "log.level": one_of("debug", "info", "warning", "error", "critical"),
}

SHARED = {
    "streaming.max_output_tokens": "estimation_budgets.minimal_generation_floor",
    "turns.total_timeout_secs": "turns.max_age_secs",
}
"""Keys of which one bound is another setting's, and is told as that one's."""


@pytest.fixture(autouse=True)
def bare_environment() -> Iterator[None]:
    """No variable of ours before, and none after: a command sets some for the processes that it starts."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.upper().startswith("MINI_CHAT_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


TAKEN = [(key, value) for key, (good, _) in RANGES.items() for value in good]
REFUSED = [(key, value) for key, (_, bad) in RANGES.items() for value in bad]


def test_every_setting_has_its_range_here() -> None:
    assert list(RANGES) == [setting.key for setting in list_settings()]


@pytest.mark.parametrize(("key", "value"), TAKEN)
def test_the_edges_are_taken(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    monkeypatch.setenv(variable_of(key), value)
    load_settings()


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_what_lies_beyond_stops_the_start_and_names_the_key(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(variable_of(key), value)
    with pytest.raises(ConfigurationError) as stopped:
        load_settings()
    assert any(name in str(stopped.value) for name in (key, variable_of(key), SHARED.get(key, key)))


@pytest.mark.parametrize("command", ["run", "api", "worker", "migrate", "demo-provider"])
def test_no_command_starts_on_such_a_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINI_CHAT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MINI_CHAT_TURNS__LEASE_SECS", "2.9")
    assert main([command]) == EXIT_CONFIGURATION
    assert "turns.lease_secs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("MINI_CHAT_TURN__LEASE_SECS", "turn.lease_secs"),
        ("MINI_CHAT_TURNS__LEASE", "turns.lease"),
        ("MINI_CHAT_AUTH__JWT__KEYS", "auth.jwt.keys"),
        ("MINI_CHAT_", "MINI_CHAT_: unknown key"),
    ],
)
def test_an_unknown_variable_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, key: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigurationError, match=key):
        load_settings()


def test_a_bad_value_of_a_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINI_CHAT_DATABASE__URL", "mysql://ann:swordfish@db/chat")
    monkeypatch.setenv("MINI_CHAT_AUTH__JWT__ALGORITHMS", '["swordfish"]')
    with pytest.raises(ConfigurationError) as stopped:
        load_settings()
    assert "swordfish" not in str(stopped.value)
