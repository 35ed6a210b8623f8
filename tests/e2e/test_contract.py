"""Any request at all: no route fails, or answers what its description does not say.

Requests are made from the OpenAPI document, those it allows and those it does not, with ids of things that are there
and of things that are not. The examples are the same in every run.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from api.main import create_app
from tests.support.api import api_settings
from tests.support.deployment import Deployment
from tests.support.sse import SseParser
from tests.support.stream_rules import assert_well_formed
from tests.support.tokens import Caller
from tests.support.turns import ask

EXAMPLES = 8
"""Of each kind for each route."""

REPEATABLE = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # to shrink a failure takes many requests more
)
GENERATION = {
    "allow-x00": False,  # no schema can say that U+0000 is refused in a text; `test_conventions.py` does
    "allow-extra-parameters": False,  # they are ignored
    "with-security-parameters": False,  # `test_isolation.py` is about these
}

PARSED = {"list_chats", "list_messages"}
"""Their cursors and filters have rules that no schema can tell."""

OF_ITS_OWN = "/healthz/stream"
"""Lasts as long as it is asked to, and its events are no turn's: `test_probe.py` is about it."""


def _document() -> dict[str, Any]:
    return create_app(
        api_settings(database_url="postgresql://localhost/none", valkey_url="redis://localhost")
    ).openapi()


DOCUMENT = _document()


def can_be_wrong(operation: dict[str, Any]) -> bool:
    """Whether any request at all breaks its description; a model's id is any text."""
    parameters = [item["name"] for item in operation.get("parameters", [])]
    return "requestBody" in operation or parameters not in ([], ["model_id"])


SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig.from_dict({"generation": GENERATION}))
ROUTES = [
    (method.upper(), path, mode)
    for path, operations in DOCUMENT["paths"].items()
    if path != OF_ITS_OWN
    for method, operation in operations.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or can_be_wrong(operation)
]


@pytest.fixture
async def known(product: Deployment, caller: Caller) -> dict[str, str]:
    """Path parameters of something of the caller's, whom the provider answers at once."""
    script = {"match": str(caller.tenant_id), "text": "Yes.", "rate": 0}
    product.queue_scripts(*[script] * 3 * EXAMPLES)
    async with product.client(caller) as client:
        turn = await ask(client, "Is it?")
    return {
        "chat_id": turn.chat_id,
        "request_id": turn.request_id,
        "message_id": turn.message_id,
        "model_id": "gpt-5.2",
    }


@pytest.mark.parametrize(("method", "path", "mode"), ROUTES)
def test_a_route_answers_what_its_description_says(
    product: Deployment, caller: Caller, known: dict[str, str], method: str, path: str, mode: GenerationMode
) -> None:
    operation: APIOperation[Any, Any, Any, Any] = SCHEMA[path][method]
    fixed = {name: value for name, value in known.items() if f"{{{name}}}" in path}

    @REPEATABLE
    @given(operation.as_strategy(mode, path_parameters=fixed) | operation.as_strategy(mode))
    def check(case: Case[Any]) -> None:
        answer = case.call(base_url=product.apis[0].url, headers=caller.headers)
        case.validate_response(answer, excluded_checks=[checks.positive_data_acceptance])
        assert_documented(operation, answer)
        if mode is GenerationMode.POSITIVE and operation.definition.raw["operationId"] not in PARSED:
            assert not is_called_invalid(answer), answer.text

    check()


def is_called_invalid(answer: Response) -> bool:
    """The request itself was refused, and not what it asks for."""
    return answer.status_code == httpx.codes.BAD_REQUEST and answer.json()["code"] == "invalid_request"


def assert_documented(operation: APIOperation[Any, Any, Any, Any], answer: Response) -> None:
    """The document names the status itself: `default` is for what nobody can foresee."""
    described = operation.definition.raw["responses"]
    assert str(answer.status_code) in described, f"{answer.status_code}: {answer.text}"
    if answer.headers.get("content-type") == ["text/event-stream"]:
        assert_well_formed(SseParser().feed(answer.text))
