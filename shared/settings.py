"""Configuration of every process: one immutable tree, read once at start-up and passed down.

Sources, later wins: the defaults below, the YAML file named by `MINI_CHAT_CONFIG`, environment variables
`MINI_CHAT_<GROUP>__<KEY>`. A value in the file may contain `${NAME}`, which is replaced by that environment
variable. An unknown key, an unknown `MINI_CHAT_*` variable or a value out of range raises `ConfigurationError`,
whose text names the key: a process never starts on half a configuration.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

import yaml
from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from shared.outbox.webhooks import signing_key
from shared.quotas.budgets import EstimationBudgets

ENV_PREFIX = "MINI_CHAT_"
CONFIG_FILE_VARIABLE = "MINI_CHAT_CONFIG"
_NAMES_A_MEMBER = re.compile(r"^[a-z_]+: ")
_ENV_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

OnDisconnect = Literal["continue", "cancel"]
OnWorkerLoss = Literal["restart", "fail"]
JwtAlgorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"
]

DEFAULT_WEB_SEARCH_GUARD = (
    "Use web_search only when the conversation and your own knowledge do not suffice to answer, never for general"
    " knowledge, and at most once per answer."
)
DEFAULT_FILE_SEARCH_GUARD = (
    "Use file_search to look into the documents uploaded to this chat whenever they may bear on the question, and"
    " prefer what they say over general knowledge."
)
DEFAULT_SUMMARY_PROMPT = (
    "Summarize the conversation for later use as context. First think inside an <analysis> block, then give the"
    " result inside a <summary> block. Invent nothing."
)


class ConfigurationError(Exception):
    """The configuration cannot be used; the text says which key and why, and holds no secret."""


A_DAY_SECS: Final = 86_400
"""As long as anything may wait that has no bound of its own: far more than is of use, and no timer overflows."""


class Group(BaseModel):
    """A level of the tree: unknown members are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


def _require_power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two")
    return value


class JwtSettings(Group):
    issuer: str | None = None
    audience: str | None = None
    jwks_url: str | None = None
    key: SecretStr | None = None
    """The secret of HS*, or the PEM public key of the other algorithms."""
    algorithms: tuple[JwtAlgorithm, ...] = ("RS256",)
    leeway_secs: int = Field(30, ge=0, le=600)
    tenant_claim: str = Field("tenant_id", min_length=1)
    user_claim: str = Field("sub", min_length=1)
    scope_claim: str = Field("scope", min_length=1)
    features_claim: str = Field("features", min_length=1)

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if not self.algorithms:
            raise ValueError("algorithms: at least one is required")
        symmetric = [name for name in self.algorithms if name.startswith("HS")]
        if symmetric and self.key is None:
            raise ValueError(f"algorithms: {symmetric[0]} needs auth.jwt.key")
        # A public key accepted as an HMAC secret would let anybody sign tokens.
        if symmetric and len(symmetric) != len(self.algorithms):
            raise ValueError("algorithms: HS* cannot be mixed with public-key algorithms")
        return self


class AuthSettings(Group):
    mode: Literal["jwt", "dev"] = "jwt"
    jwt: JwtSettings = JwtSettings()
    dev_on_any_host: bool = False
    dev_tenant_id: UUID = UUID("00000000-0000-4000-8000-000000000001")
    dev_user_id: UUID = UUID("00000000-0000-4000-8000-000000000002")
    license_feature: str = ""


class StreamingSettings(Group):
    sse_ping_interval_seconds: int = Field(15, ge=5, le=60)
    sse_channel_capacity: int = Field(32, ge=16, le=64)
    max_output_tokens: int = Field(32_768, gt=0)
    web_search_context_size: Literal["low", "medium", "high"] = "low"
    on_disconnect: OnDisconnect = "continue"
    disconnect_grace_secs: float = Field(15, ge=0, le=300)


class EventLogSettings(Group):
    ttl_secs: int = Field(900, ge=1, le=86_400)
    max_entries: int = Field(20_000, ge=1_000)


class TurnSettings(Group):
    max_attempts: int = Field(3, ge=1, le=10)
    lease_secs: float = Field(10, ge=3, le=60)
    on_worker_loss: OnWorkerLoss = "restart"
    total_timeout_secs: int = Field(900, ge=5, le=3_600)
    max_age_secs: int = Field(3_600, ge=10, le=86_400)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max_age_secs <= self.total_timeout_secs:
            raise ValueError("max_age_secs: must be more than total_timeout_secs")
        return self


class RelaySettings(Group):
    fast_path: bool = True


class WorkerSettings(Group):
    max_jobs: int = Field(256, ge=1)
    drain_secs: float = Field(30, ge=0, le=600)
    poll_delay_ms: int = Field(500, ge=10, le=5_000)


class QuotaSettings(Group):
    overshoot_tolerance_factor: float = Field(1.10, ge=1.0, le=1.5)
    warning_threshold_pct: int = Field(80, ge=1, le=99)
    web_search_max_calls_per_message: int = Field(2, gt=0)
    web_search_daily_quota: int = Field(75, gt=0)
    code_interpreter_max_calls_per_message: int = Field(10, gt=0)
    code_interpreter_daily_quota: int = Field(50, gt=0)


class ContextSettings(Group):
    recent_messages_limit: int = Field(10, ge=0, le=100)
    web_search_guard: str = DEFAULT_WEB_SEARCH_GUARD
    file_search_guard: str = DEFAULT_FILE_SEARCH_GUARD


class RagSettings(Group):
    max_documents_per_chat: int = Field(50, gt=0)
    max_total_upload_mb_per_chat: int = Field(100, gt=0)
    uploaded_file_max_size_kb: int = Field(25_600, gt=0)
    uploaded_image_max_size_kb: int = Field(5_120, gt=0)
    allow_csv_upload: bool = True
    max_images_per_message: int = Field(4, gt=0)
    max_concurrent_uploads: int = Field(10, ge=1, le=256)
    max_image_inputs_per_user_per_day: int = Field(50, ge=0)
    max_upload_bytes_per_user_per_day: int = Field(0, ge=0)
    max_total_image_bytes_per_turn: int = Field(0, ge=0)


class ThumbnailSettings(Group):
    width: int = Field(128, gt=0)
    height: int = Field(128, gt=0)
    max_bytes: int = Field(131_072, gt=0)
    max_pixels: int = Field(100_000_000, gt=0)
    max_decode_bytes: int = Field(134_217_728, gt=0)


class DocSummarySettings(Group):
    enabled: bool = False
    model_id: str = ""


class OrphanWatchdogSettings(Group):
    enabled: bool = True
    scan_interval_secs: float = Field(60, gt=0, le=A_DAY_SECS)
    timeout_secs: int = Field(300, ge=10, le=3_600)


class ThreadSummaryWorkerSettings(Group):
    enabled: bool = True
    compression_threshold_pct: int = Field(80, ge=1, le=99)
    max_attempts: int = Field(3, gt=0)
    message_content_limit: int = Field(4_000, ge=0)
    summary_model_id: str = ""
    summary_system_prompt: str = DEFAULT_SUMMARY_PROMPT


class CleanupWorkerSettings(Group):
    enabled: bool = True
    max_attempts: int = Field(5, gt=0)
    batch_size: int = Field(32, gt=0)
    poll_interval_secs: float = Field(60, gt=0, le=A_DAY_SECS)


class OutboxSettings(Group):
    partitions: Annotated[int, AfterValidator(_require_power_of_two)] = Field(4, ge=1, le=64)
    poll_interval_ms: int = Field(1_000, gt=0, le=A_DAY_SECS * 1_000)
    lease_secs: float = Field(30, gt=0, le=A_DAY_SECS)
    backoff_base_secs: float = Field(1, gt=0, le=A_DAY_SECS)
    backoff_max_secs: float = Field(60, gt=0, le=A_DAY_SECS)
    max_attempts: int = Field(20, gt=0)
    retention_hours: int = Field(24, gt=0, le=876_000)


class RetentionSettings(Group):
    chat_grace_days: int = Field(30, ge=0, le=36_500)


class MetricsSettings(Group):
    prefix: str = Field("mini_chat", pattern=r"^[a-z][a-z0-9_]*$")
    api_port: int = Field(9464, ge=0, le=65_535)
    worker_port: int = Field(9465, ge=0, le=65_535)


class DemoProviderSettings(Group):
    port: int = Field(8081, ge=1, le=65_535)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


class SinkSettings(Group):
    kind: Literal["log", "http"] = "log"
    url: str | None = None
    secret: SecretStr | None = None

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.kind == "http" and not (self.url and self.secret):
            raise ValueError("kind: http needs url and secret")
        if self.url is not None and not _is_web_address(self.url):
            raise ValueError("url: must start with http:// or https:// and name a host")
        if self.secret is not None:
            try:
                signing_key(self.secret.get_secret_value())
            except ValueError as error:
                raise ValueError(f"secret: {error}") from None
        return self


class AuditSettings(Group):
    include_content: bool = False


def _require_trace_target(url: str) -> str:
    if url and not _is_web_address(url) and not (url.startswith("file:") and urlsplit(url).path.startswith("/")):
        raise ValueError("must be empty, an http:// or https:// URL that names a host, or file:///absolute/path")
    return url


class TracingSettings(Group):
    otlp_endpoint: Annotated[str, AfterValidator(_require_trace_target)] = ""


def _require_origin(text: str) -> str:
    parts = urlsplit(text)
    if text != "*" and not (_is_web_address(text) and text == f"{parts.scheme}://{parts.netloc}".lower()):
        raise ValueError("must be * or an origin as browsers send it, such as https://chat.example")
    return text


class CorsSettings(Group):
    allow_origins: tuple[Annotated[str, AfterValidator(_require_origin)], ...] = ()


class PageSettings(Group):
    enabled: bool = True


class DrainSettings(Group):
    lead_secs: float = Field(0, ge=0, le=A_DAY_SECS)


class CatalogSettings(Group):
    path: Path | None = None
    reload_secs: float = Field(30, ge=0, le=A_DAY_SECS)


def _require_zero_or_at_least_a_thousandth(rate: float) -> float:
    if 0 < rate < 0.001:
        raise ValueError("must be 0, or at least 0.001")
    return rate


class LimitSettings(Group):
    # Both bounds keep the time in which a bucket fills within what Lua counts in microseconds without loss.
    requests_per_second: Annotated[float, AfterValidator(_require_zero_or_at_least_a_thousandth)] = Field(
        0, ge=0, le=1_000_000
    )
    burst: int = Field(0, ge=0, le=1_000_000)
    concurrent_streams_per_user: int = Field(0, ge=0)
    concurrent_turns_per_user: int = Field(0, ge=0)
    max_queued_turns: int = Field(0, ge=0)
    fail_open: bool = True


def _check_port(url: SecretStr) -> None:
    try:
        _ = urlsplit(url.get_secret_value()).port
    except ValueError:
        raise ValueError("url: the port must be a number up to 65535") from None


class DatabaseSettings(Group):
    url: SecretStr | None = None
    pool_size: int = Field(20, ge=1)
    statement_cache: bool = True

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        if self.url is not None:
            scheme = urlsplit(self.url.get_secret_value()).scheme
            if scheme not in {"postgresql", "postgres", "postgresql+asyncpg"}:
                raise ValueError("url: must start with postgresql://")
            _check_port(self.url)
        return self


class RedisSettings(Group):
    url: SecretStr | None = None

    @model_validator(mode="after")
    def _check_scheme(self) -> Self:
        if self.url is not None:
            scheme = urlsplit(self.url.get_secret_value()).scheme
            if scheme not in {"redis", "rediss", "unix"}:
                raise ValueError("url: must start with redis://, rediss:// or unix://")
            _check_port(self.url)
            database = urlsplit(self.url.get_secret_value()).path.strip("/")
            if scheme != "unix" and database and not database.isdecimal():
                raise ValueError("url: the database must be a number")
        return self


class LogSettings(Group):
    level: Literal["debug", "info", "warning", "error", "critical"] = "info"


class Settings(BaseSettings):
    """The whole configuration. Build it with `load_settings`, which turns every problem into one clear text."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        env_ignore_empty=True,  # compose files and charts pass what is not set as an empty text
        hide_input_in_errors=True,
    )

    prefix: str = Field("", pattern=r"^(/[A-Za-z0-9._~-]+)*$")
    base_path: str = Field("/mini-chat/v1", pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8080, ge=0, le=65_535)
    data_dir: Path = Field(default_factory=lambda: default_data_dir())  # noqa: PLW0108 (defined below)
    allow_http_providers: bool = False

    auth: AuthSettings = AuthSettings()
    streaming: StreamingSettings = StreamingSettings()
    event_log: EventLogSettings = EventLogSettings()
    turns: TurnSettings = TurnSettings()
    relay: RelaySettings = RelaySettings()
    worker: WorkerSettings = WorkerSettings()
    estimation_budgets: EstimationBudgets = EstimationBudgets()
    quota: QuotaSettings = QuotaSettings()
    context: ContextSettings = ContextSettings()
    rag: RagSettings = RagSettings()
    thumbnail: ThumbnailSettings = ThumbnailSettings()
    doc_summary: DocSummarySettings = DocSummarySettings()
    orphan_watchdog: OrphanWatchdogSettings = OrphanWatchdogSettings()
    thread_summary_worker: ThreadSummaryWorkerSettings = ThreadSummaryWorkerSettings()
    cleanup_worker: CleanupWorkerSettings = CleanupWorkerSettings()
    outbox: OutboxSettings = OutboxSettings()
    retention: RetentionSettings = RetentionSettings()
    metrics: MetricsSettings = MetricsSettings()
    demo_provider: DemoProviderSettings = DemoProviderSettings()
    usage_sink: SinkSettings = SinkSettings()
    audit_sink: SinkSettings = SinkSettings()
    audit: AuditSettings = AuditSettings()
    tracing: TracingSettings = TracingSettings()
    cors: CorsSettings = CorsSettings()
    page: PageSettings = PageSettings()
    drain: DrainSettings = DrainSettings()
    catalog: CatalogSettings = CatalogSettings()
    limits: LimitSettings = LimitSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_across_groups(self) -> Self:
        if self.estimation_budgets.minimal_generation_floor > self.streaming.max_output_tokens:
            raise ValueError("estimation_budgets.minimal_generation_floor: must not exceed streaming.max_output_tokens")
        if self.auth.mode == "dev" and not self.auth.dev_on_any_host and not is_loopback(self.host):
            raise ValueError("auth.mode: dev refuses a host other than loopback unless auth.dev_on_any_host is set")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; the file arrives as keyword arguments of `load_settings`."""
        return env_settings, init_settings


def default_data_dir() -> Path:
    """Where the embedded engines keep their data: root's lies where an unprivileged server may be let in."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/mini-chat")
    return user_data_path("mini-chat", appauthor=False)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings() -> Settings:
    """Read file and environment.

    Raises:
        ConfigurationError: an unknown key, a bad value, or a file that cannot be read; names the key.
    """
    _refuse_unknown_variables()
    values = _read_config_file()
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(describe_validation_error(error)) from None
    except SettingsError as error:
        raise ConfigurationError(f"{_not_json(error)}: lists are written as JSON in the environment") from None


def _not_json(error: SettingsError) -> str:
    """The variables that the group in `error` has: pydantic-settings names only the group."""
    group = str(error).partition('"')[2].partition('"')[0]
    names = [name for name in os.environ if name.upper().startswith(f"{ENV_PREFIX}{group}".upper())]
    return ", ".join(sorted(names)) or group


def describe_validation_error(error: ValidationError) -> str:
    """One line per problem, each starting with the dotted key; no input value is repeated."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        # A group's own validator names the member first: `url: must …` inside `database` is `database.url: must …`.
        separator = "." if _NAMES_A_MEMBER.match(message) else ": "
        lines.append(f"{key}{separator}{message}" if key else message)
    return "; ".join(lines)


def substitute_environment(value: Any, *, where: str) -> Any:
    """Replace `${NAME}` in every string of a tree of dicts and lists; a missing variable is an error."""
    if isinstance(value, str):
        return _ENV_REFERENCE.sub(lambda match: _environment_value(match[1], where=where), value)
    if isinstance(value, dict):
        return {key: substitute_environment(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [substitute_environment(item, where=where) for item in value]
    return value


_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser in C, where PyYAML has one, is six times as fast, and every start of a process reads the catalog."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file, with environment references replaced.

    Raises:
        ConfigurationError: unreadable, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 (it is a safe one)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: is not valid YAML{_place_of(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigurationError(f"{path}: must hold a mapping whose keys are texts")
    substituted = substitute_environment(tree, where=str(path))
    assert isinstance(substituted, dict)  # noqa: S101 (a mapping stays one; for the type checker)
    return substituted


def _place_of(error: yaml.YAMLError) -> str:
    """Where, without the snippet that the parser would show: it may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f": line {mark.line + 1}, column {mark.column + 1}"


def _environment_value(name: str, *, where: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise ConfigurationError(f"{where}: environment variable {name} is not set") from None


def _read_config_file() -> dict[str, Any]:
    name = os.environ.get(CONFIG_FILE_VARIABLE)
    return read_yaml(Path(name)) if name else {}


def _refuse_unknown_variables() -> None:
    """pydantic-settings ignores variables it does not know; a typing mistake must not pass in silence."""
    known = set(Settings.model_fields)
    for name in os.environ:
        if not name.upper().startswith(ENV_PREFIX) or name.upper() == CONFIG_FILE_VARIABLE:
            continue
        path = name[len(ENV_PREFIX) :].lower().split("__")
        if path[0] not in known:
            raise ConfigurationError(f"{name}: unknown key {'.'.join(path)}")
