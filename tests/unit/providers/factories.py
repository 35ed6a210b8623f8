"""Requests, configurations and wire frames with telling defaults."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from shared.model_catalog.catalog import ApiParams, CatalogModel, GeneralConfig, ProviderConfig, ProviderTimeouts
from shared.turns.context import PlannedMessage
from worker.providers.base import GenerationRequest

TENANT = UUID("00000000-0000-4000-8000-00000000000a")
USER = UUID("00000000-0000-4000-8000-00000000000b")
CHAT = UUID("00000000-0000-4000-8000-00000000000c")

EARLIER = (PlannedMessage("user", "earlier question"), PlannedMessage("assistant", "earlier answer"))


def a_model(*, provider_model_id: str = "gpt-x", max_tool_calls: int = 2, **api_params: Any) -> CatalogModel:
    return CatalogModel(
        id="std-a",
        provider_model_id=provider_model_id,
        provider_id="main",
        provider_display_name="Main",
        display_name="Standard A",
        tier="standard",
        context_window=100_000,
        max_output_tokens=8_192,
        max_input_tokens=90_000,
        input_tokens_credit_multiplier_micro=1,
        output_tokens_credit_multiplier_micro=1,
        max_num_results=10,
        max_tool_calls=max_tool_calls,
        general_config=GeneralConfig(api_params=ApiParams(**api_params)),
    )


def a_request(*, model: CatalogModel | None = None, text: str = "What is shown?", **members: Any) -> GenerationRequest:
    values: dict[str, Any] = {
        "instructions": None,
        "history": (PlannedMessage("user", text),),
        "max_output_tokens": 8_192,
        "request_kind": "chat",
        **members,
    }
    return GenerationRequest(model=model or a_model(), tenant_id=TENANT, user_id=USER, chat_id=CHAT, **values)


def a_config(port: int = 443, *, timeouts: dict[str, float] | None = None, **members: Any) -> ProviderConfig:
    values: dict[str, Any] = {"kind": "openai_responses", "storage_kind": "openai", "use_http": True, **members}
    return ProviderConfig(host="127.0.0.1", port=port, timeouts=ProviderTimeouts(**(timeouts or {})), **values)


def frame(name: str, **data: Any) -> bytes:
    """A Responses event as servers send it, `type` included."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), json.dumps({"type": name, **data}).encode())


def delta(text: str) -> bytes:
    return frame("response.output_text.delta", delta=text)


def completed(response_id: str = "resp_1") -> bytes:
    usage = {"input_tokens": 5, "output_tokens": 2}
    return frame("response.completed", response={"id": response_id, "usage": usage, "output": []})
