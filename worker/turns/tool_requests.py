"""How a provider is offered a turn's tools: the Responses API's wire form, in the order of `IncludedTools`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.model_catalog.catalog import CatalogModel
from shared.turns.tools import IncludedTools
from worker.turns.files import ChatFiles


def tool_requests(
    tools: IncludedTools, *, files: ChatFiles, model: CatalogModel, search_context_size: str
) -> tuple[Mapping[str, Any], ...]:
    """`search_context_size` is for models that set none."""
    requests: list[Mapping[str, Any]] = []
    if tools.file_search:
        requests.append(
            {
                "type": "file_search",
                "vector_store_ids": [files.vector_store_id],
                "max_num_results": model.max_num_results,
            }
        )
    if tools.web_search:
        size = model.web_search_context_size or search_context_size
        requests.append({"type": "web_search", "search_context_size": size})
    if tools.code_interpreter:
        container = {"type": "auto", "file_ids": list(files.code_file_ids)}
        requests.append({"type": "code_interpreter", "container": container})
    return tuple(requests)
