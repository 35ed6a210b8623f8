"""The catalog file: providers, models, limits and kill switches, as one immutable value.

Unknown members are refused everywhere. Multipliers are micro-credits per million tokens divided by a million, that
is: 1 000 000 means one micro-credit per token. Limits are micro-credits.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from shared.quotas.budgets import EstimationBudgetOverrides

Tier = Literal["standard", "premium"]
ProviderKind = Literal["openai_responses", "openai_chat_completions", "vllm_responses"]
Capability = Literal[
    "VISION_INPUT",
    "IMAGE_GENERATION",
    "IMAGE_EDITING",
    "AUDIO_INPUT",
    "SPEECH_OUTPUT",
    "VIDEO_INPUT",
    "VIDEO_GENERATION",
    "CROSS_MODAL_REASONING",
    "RAG",
]
MAX_MULTIPLIER = 10**10
MAX_BACKEND_CHARS = 32
MAX_PROVIDER_ID_CHARS = 128
"""What the columns hold."""


class CatalogPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
HeaderText = Annotated[str, Field(pattern=r"^[ -~]*$")]
"""Of a header's value: printable ASCII."""


class ProviderTimeouts(CatalogPart):
    """Seconds: to connect, to the first event, between events, and for one whole call."""

    connect: float = Field(10, gt=0)
    first_event: float = Field(60, gt=0)
    idle: float = Field(60, gt=0)
    total: float = Field(600, gt=0)


class TenantOverride(CatalogPart):
    host: str | None = Field(None, min_length=1, pattern=r"^[^\s/]+$")
    port: int | None = Field(None, ge=1, le=65_535)
    auth_header: HeaderName | None = None
    auth_prefix: HeaderText | None = None
    auth_secret: str | None = Field(None, pattern=r"^(env|file):.+$")

    @model_validator(mode="after")
    def _check_host(self) -> Self:
        changes_auth = self.auth_header is not None or self.auth_prefix is not None or self.auth_secret is not None
        if changes_auth and self.host is None:
            # A tenant's own key must never be sent to the host of all the others.
            raise ValueError("host: an override that changes authentication needs its own host")
        return self


class ProviderConfig(CatalogPart):
    """How to reach one provider. `auth_secret` is a reference (`env:NAME`, `file:/path`), never the secret."""

    kind: ProviderKind
    storage_kind: Literal["openai", "azure"]
    host: str = Field(min_length=1, pattern=r"^[^\s/]+$")
    port: int = Field(443, ge=1, le=65_535)
    use_http: bool = False
    api_path: str = Field("/v1/responses", pattern=r"^/\S*$")
    auth_header: HeaderName | None = None
    auth_prefix: HeaderText = ""
    auth_secret: str | None = Field(None, pattern=r"^(env|file):.+$")
    api_version: str | None = Field(None, min_length=1)
    storage_backend: str | None = Field(None, min_length=1, max_length=MAX_BACKEND_CHARS)
    image_purpose: str = "assistants"
    supports_file_search_filters: bool = True
    timeouts: ProviderTimeouts = ProviderTimeouts()
    circuit_breaker: bool = False
    tenant_overrides: dict[UUID, TenantOverride] = {}

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        if self.storage_kind == "azure" and self.api_version is None:
            raise ValueError("api_version: storage_kind azure needs it")
        if (self.auth_header is None) != (self.auth_secret is None):
            raise ValueError("auth_secret: auth_header and auth_secret go together")
        return self

    def for_tenant(self, tenant_id: UUID) -> ProviderConfig:
        """This configuration with the tenant's override applied; everything it leaves out is inherited."""
        override = self.tenant_overrides.get(tenant_id)
        if override is None:
            return self
        return self.model_copy(update=override.model_dump(exclude_none=True))


class ApiParams(CatalogPart):
    """Generation parameters; a member given as null is not sent, for models that reject it."""

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    extra_body: dict[str, Any] | None = None
    reasoning_effort: str | None = None


class Features(CatalogPart):
    streaming: bool = True
    structured_output: bool = False


class ToolSupport(CatalogPart):
    web_search: bool = False
    file_search: bool = False
    image_generation: bool = False
    code_interpreter: bool = False
    mcp: bool = False


class SupportedEndpoints(CatalogPart):
    chat_completions: bool = False
    responses: bool = False
    embeddings: bool = False
    image_generation: bool = False
    audio_speech_generation: bool = False
    audio_transcription: bool = False
    audio_translation: bool = False


class GeneralConfig(CatalogPart):
    type: str = ""
    available_from: datetime | None = None
    max_file_size_mb: int | None = Field(None, gt=0)
    api_params: ApiParams = ApiParams()
    features: Features = Features()
    tool_support: ToolSupport = ToolSupport()
    supported_endpoints: SupportedEndpoints = SupportedEndpoints()


class Preference(CatalogPart):
    is_default: bool = False
    sort_order: int = 0


class CatalogModel(CatalogPart):
    """One language model. `id` is what clients name, `provider_model_id` what the provider is asked for."""

    id: str = Field(min_length=1, max_length=1024)
    provider_model_id: str = Field(min_length=1)
    provider_id: str = Field(min_length=1)
    provider_display_name: str
    display_name: str
    description: str = ""
    icon: str = ""
    version: str = ""
    multiplier_display: str = ""
    system_prompt: str = ""
    thread_summary_prompt: str = ""
    tier: Annotated[Tier, BeforeValidator(_lower_case)]
    enabled: bool = False
    multimodal_capabilities: tuple[Capability, ...] = ()
    context_window: int = Field(gt=0)
    max_output_tokens: int = Field(gt=0)
    max_input_tokens: int = Field(gt=0)
    input_tokens_credit_multiplier_micro: int = Field(ge=1, le=MAX_MULTIPLIER)
    output_tokens_credit_multiplier_micro: int = Field(ge=1, le=MAX_MULTIPLIER)
    estimation_budgets: EstimationBudgetOverrides | None = None
    max_num_results: int = Field(gt=0)
    web_search_context_size: Literal["low", "medium", "high"] | None = None
    """None: the service's `streaming.web_search_context_size`."""
    max_tool_calls: int = Field(2, gt=0)
    general_config: GeneralConfig = GeneralConfig()
    preference: Preference = Preference()

    @model_validator(mode="after")
    def _check_vision(self) -> Self:
        if self.enabled and "VISION_INPUT" not in self.multimodal_capabilities:
            raise ValueError("multimodal_capabilities: an enabled model must list VISION_INPUT")
        return self


class TierLimits(CatalogPart):
    limit_daily_credits_micro: int
    limit_monthly_credits_micro: int


class UserLimits(CatalogPart):
    """Limits that replace the defaults for a user, a tenant, or a user of a tenant."""

    tenant_id: UUID | None = None
    user_id: UUID | None = None
    standard: TierLimits | None = None
    premium: TierLimits | None = None


class KillSwitches(CatalogPart):
    disable_premium_tier: bool = False
    force_standard_tier: bool = False
    disable_web_search: bool = False
    disable_file_search: bool = False
    disable_images: bool = False
    disable_code_interpreter: bool = False


class Catalog(CatalogPart):
    """A validated policy: at least one enabled model, unique ids, known providers, one default a tier at most."""

    policy_version: int = Field(ge=1)
    kill_switches: KillSwitches = KillSwitches()
    default_standard_limits: TierLimits = TierLimits(
        limit_daily_credits_micro=100_000_000, limit_monthly_credits_micro=1_000_000_000
    )
    default_premium_limits: TierLimits = TierLimits(
        limit_daily_credits_micro=50_000_000, limit_monthly_credits_micro=500_000_000
    )
    user_limits: tuple[UserLimits, ...] = ()
    providers: dict[Annotated[str, Field(max_length=MAX_PROVIDER_ID_CHARS)], ProviderConfig]
    model_catalog: tuple[CatalogModel, ...]

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        ids = [model.id for model in self.model_catalog]
        if len(ids) != len(set(ids)):
            raise ValueError("model_catalog: ids must be unique")
        if not any(model.enabled for model in self.model_catalog):
            raise ValueError("model_catalog: at least one model must be enabled")
        for model in self.model_catalog:
            if model.provider_id not in self.providers:
                raise ValueError(f"model_catalog: {model.id} names the unknown provider {model.provider_id}")
        for provider_id, provider in self.providers.items():
            if provider.storage_backend is None and len(provider_id) > MAX_BACKEND_CHARS:
                raise ValueError(f"providers: {provider_id}: so long an id needs a storage_backend of its own")
        for tier in ("standard", "premium"):
            if sum(model.preference.is_default for model in self.model_catalog if model.tier == tier) > 1:
                raise ValueError(f"model_catalog: at most one default in tier {tier}")
        return self

    def find_model(self, model_id: str) -> CatalogModel | None:
        return next((model for model in self.model_catalog if model.id == model_id), None)

    def enabled_models(self, tier: Tier | None = None) -> Iterator[CatalogModel]:
        """Enabled models in catalog order, of one tier if given."""
        return (model for model in self.model_catalog if model.enabled and tier in (None, model.tier))

    def default_of(self, tier: Tier) -> CatalogModel | None:
        """The tier's enabled default, else its first enabled model, else None."""
        candidates = list(self.enabled_models(tier))
        preferred = [model for model in candidates if model.preference.is_default]
        return next(iter(preferred or candidates), None)

    def default_model(self) -> CatalogModel | None:
        """What a chat gets when its creator names no model: premium before standard."""
        return self.default_of("premium") or self.default_of("standard")

    def provider_of(self, model: CatalogModel) -> ProviderConfig:
        return self.providers[model.provider_id]
