"""The catalog that the contract's acceptance statements speak of, and files of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PREMIUM = "azure-gpt-4.1"
STANDARD = "gpt-5.2"
MINI = "gpt-5-mini"
NANO = "gpt-5-nano"
DISABLED = "gpt-off"


def acceptance_catalog(*, provider_port: int = 9) -> dict[str, Any]:
    """A fresh tree, to be changed at will; both providers are the server at `provider_port`, over plain HTTP."""
    provider = {"host": "127.0.0.1", "port": provider_port, "use_http": True}
    azure = {
        "storage_kind": "azure",
        "storage_backend": "azure",
        "api_version": "v1",
        "api_path": "/openai/v1/responses",
    }
    tools = {"web_search": True, "file_search": True, "code_interpreter": True}
    return {
        "policy_version": 1,
        "providers": {
            "openai": {"kind": "openai_responses", "storage_kind": "openai", **provider},
            "azure_openai": {"kind": "openai_responses", **azure, **provider},
        },
        "model_catalog": [
            _model(PREMIUM, "gpt-4.1", "azure_openai", tier="premium", multipliers=(3_000_000, 15_000_000))
            | {"general_config": {"tool_support": tools, "max_file_size_mb": 50}, "preference": {"is_default": True}},
            _model(STANDARD, STANDARD, "openai") | {"general_config": {"tool_support": tools, "max_file_size_mb": 50}},
            _model(MINI, MINI, "openai", max_output=4_096)
            | {"general_config": {"tool_support": tools, "max_file_size_mb": 50}},
            _model(NANO, NANO, "openai", window=64_000, max_input=56_000, max_output=4_096)
            | {
                "input_tokens_credit_multiplier_micro": 500_000,
                "output_tokens_credit_multiplier_micro": 1_500_000,
                "max_num_results": 5,
                "estimation_budgets": _budgets(overhead=300, image=500, tool=150, web=300),
                "general_config": {"max_file_size_mb": 25},
            },
            _model(DISABLED, DISABLED, "openai") | {"enabled": False},
        ],
    }


def write_catalog(tree: dict[str, Any], folder: Path) -> Path:
    path = folder / "catalog.yaml"
    path.write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper), encoding="utf-8")
    return path


def _model(
    model_id: str,
    provider_model_id: str,
    provider_id: str,
    *,
    tier: str = "standard",
    multipliers: tuple[int, int] = (1_000_000, 3_000_000),
    window: int = 128_000,
    max_input: int = 120_000,
    max_output: int = 8_192,
) -> dict[str, Any]:
    return {
        "id": model_id,
        "provider_model_id": provider_model_id,
        "provider_id": provider_id,
        "provider_display_name": provider_id,
        "display_name": model_id.upper(),
        "description": f"The model {model_id}",
        "tier": tier,
        "enabled": True,
        "multiplier_display": "1x",
        "multimodal_capabilities": ["VISION_INPUT"],
        "context_window": window,
        "max_input_tokens": max_input,
        "max_output_tokens": max_output,
        "input_tokens_credit_multiplier_micro": multipliers[0],
        "output_tokens_credit_multiplier_micro": multipliers[1],
        "max_num_results": 10,
        "max_tool_calls": 2,
        "estimation_budgets": _budgets(overhead=500, image=1_000, tool=200, web=500),
    }


def _budgets(*, overhead: int, image: int, tool: int, web: int) -> dict[str, int]:
    return {
        "bytes_per_token_conservative": 4,
        "fixed_overhead_tokens": overhead,
        "safety_margin_pct": 10,
        "image_token_budget": image,
        "tool_surcharge_tokens": tool,
        "web_search_surcharge_tokens": web,
        "code_interpreter_surcharge_tokens": 1_000,
        "minimal_generation_floor": 100,
    }
