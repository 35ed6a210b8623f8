"""How tokens are estimated before the provider counts them: eight integers, for the service and per model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class EstimationBudgets(BaseModel):
    """Service-level values; a model's `EstimationBudgetOverrides` replace them member by member."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bytes_per_token_conservative: int = Field(4, gt=0)
    fixed_overhead_tokens: int = Field(100, ge=0)
    safety_margin_pct: int = Field(10, ge=0)
    image_token_budget: int = Field(1_000, ge=0)
    tool_surcharge_tokens: int = Field(500, ge=0)
    web_search_surcharge_tokens: int = Field(500, ge=0)
    code_interpreter_surcharge_tokens: int = Field(1_000, ge=0)
    minimal_generation_floor: int = Field(50, gt=0)

    def overridden_by(self, overrides: EstimationBudgetOverrides | None) -> EstimationBudgets:
        if overrides is None:
            return self
        return self.model_copy(update=overrides.model_dump(exclude_none=True))


class EstimationBudgetOverrides(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bytes_per_token_conservative: int | None = Field(None, gt=0)
    fixed_overhead_tokens: int | None = Field(None, ge=0)
    safety_margin_pct: int | None = Field(None, ge=0)
    image_token_budget: int | None = Field(None, ge=0)
    tool_surcharge_tokens: int | None = Field(None, ge=0)
    web_search_surcharge_tokens: int | None = Field(None, ge=0)
    code_interpreter_surcharge_tokens: int | None = Field(None, ge=0)
    minimal_generation_floor: int | None = Field(None, gt=0)
