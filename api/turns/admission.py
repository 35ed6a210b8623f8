"""Decides, before a turn exists, what it will be: its model, its tools and its reserve. No I/O.

The same decision is taken twice: early, so that a refusal costs nothing, and again under the lock of the user's
buckets, where nobody can overtake it. What is decided is stored with the turn and never worked out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.attachments.errors import ImagesDisabledError
from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.quotas.buckets import ALL_BUCKETS, TOTAL, BucketKey, buckets_of
from shared.quotas.effective_model import ModelDecision, decide_model
from shared.quotas.errors import QuotaExceededError
from shared.quotas.estimation import Included, budgets_of, estimate_text
from shared.quotas.reserve import Reserve, Standing, has_room, reserve_for
from shared.settings import Settings
from shared.turns.context import check_mandatory
from shared.turns.errors import InputTooLongError, UnsupportedMediaError
from shared.turns.tools import AvailableFiles, IncludedTools, include_tools


@dataclass(frozen=True, slots=True)
class Admission:
    """What a turn will be, if it is accepted."""

    decision: ModelDecision
    tools: IncludedTools
    reserve: Reserve
    images: int
    policy_version: int

    def amount_in(self, key: BucketKey) -> int:
        """What the turn reserves in a bucket."""
        return self.reserve.credits_micro if key in buckets_of(self.decision.model.tier) else 0


@dataclass(frozen=True)
class Case:
    """What is asked for, and the policy it is asked under: everything the decision rests on but the user's standing."""

    content: str
    selected_model: str
    images: int
    is_web_search_wanted: bool
    prior_context_tokens: int
    files: AvailableFiles
    catalog: Catalog
    limits: Mapping[BucketKey, int]
    settings: Settings
    _reserves: dict[str, Reserve] = field(default_factory=dict, init=False)

    @property
    def buckets(self) -> tuple[BucketKey, ...]:
        """Those that the decision may rest on, in the order of their locks."""
        selected = self.catalog.find_model(self.selected_model)
        return TOTAL if selected is not None and selected.tier == "standard" else ALL_BUCKETS

    def decide(self, standing: Standing) -> Admission:
        """
        Raises:
            QuotaExceededError: a quota or a day limit is used up.
            CreditsOverflowError: a reserve is out of bounds.
        """
        decision = decide_model(
            self.catalog, self.selected_model, is_affordable=lambda model: self._is_affordable(model, standing)
        )
        admission = Admission(
            decision,
            self._tools_on(decision.model),
            self._reserve_on(decision.model),
            self.images,
            self.catalog.policy_version,
        )
        self._check_day_limits(admission, standing)
        return admission

    def check_content(self, admission: Admission) -> None:
        """What does not depend on quotas, for the model that was decided on.

        Raises:
            ChatError: the text is too long, images are not taken, or the mandatory context does not fit.
        """
        model = admission.decision.model
        budgets = budgets_of(model, self.settings)
        tokens = estimate_text(self.content, budgets)
        if tokens > model.max_input_tokens:
            raise InputTooLongError(current=tokens, maximum=model.max_input_tokens)
        if self.images and self.catalog.kill_switches.disable_images:
            raise ImagesDisabledError
        if self.images and "VISION_INPUT" not in model.multimodal_capabilities:
            raise UnsupportedMediaError
        check_mandatory(
            model=model,
            budgets=budgets,
            max_output_tokens=admission.reserve.max_output_tokens,
            user_text=self.content,
            images=self.images,
            tools=admission.tools,
            guards=self.settings.context,
        )

    def _is_affordable(self, model: CatalogModel, standing: Standing) -> bool:
        reserve = self._reserve_on(model)
        return has_room(reserve.credits_micro, model.tier, used=standing.used, limits=self.limits)

    def _reserve_on(self, model: CatalogModel) -> Reserve:
        if model.id not in self._reserves:
            included = Included(self.images, self._tools_on(model), self.prior_context_tokens)
            self._reserves[model.id] = reserve_for(model, self.content, included, self.settings)
        return self._reserves[model.id]

    def _tools_on(self, model: CatalogModel) -> IncludedTools:
        return include_tools(
            model=model,
            kind=self.catalog.provider_of(model).kind,
            kill_switches=self.catalog.kill_switches,
            is_web_search_wanted=self.is_web_search_wanted,
            files=self.files,
        )

    def _check_day_limits(self, admission: Admission, standing: Standing) -> None:
        """Looked at, not reserved: turns that run at the same time may go beyond by what they use themselves."""
        quota, images_a_day = self.settings.quota, self.settings.rag.max_image_inputs_per_user_per_day
        if self.is_web_search_wanted and standing.web_search_calls >= quota.web_search_daily_quota:
            raise QuotaExceededError("Daily web search quota exceeded", quota_scope="web_search")
        if admission.tools.code_interpreter and standing.code_interpreter_calls >= quota.code_interpreter_daily_quota:
            raise QuotaExceededError("Daily code interpreter quota exceeded", quota_scope="code_interpreter")
        if self.images and 0 < images_a_day < standing.image_inputs + self.images:
            raise QuotaExceededError("Daily image quota exceeded", quota_scope="image_inputs")
