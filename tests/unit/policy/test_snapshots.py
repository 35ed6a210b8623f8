"""Which catalogs are the same policy."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml

from shared.model_catalog.catalog import Catalog
from shared.policy.snapshots import content_hash
from tests.support.catalogs import acceptance_catalog


def hash_of(tree: dict[str, Any]) -> str:
    return content_hash(Catalog.model_validate(tree))


def test_what_is_spelled_out_or_left_out_is_the_same() -> None:
    plain = acceptance_catalog()
    spelled_out = Catalog.model_validate(plain).model_dump(mode="json")
    assert hash_of(spelled_out) == hash_of(plain)


def test_how_providers_are_reached_is_no_part_of_a_policy() -> None:
    assert hash_of(acceptance_catalog(provider_port=1)) == hash_of(acceptance_catalog(provider_port=2))


@pytest.mark.parametrize(
    "change",
    [
        {"kill_switches": {"disable_images": True}},
        {"user_limits": [{"standard": {"limit_daily_credits_micro": 1, "limit_monthly_credits_micro": 1}}]},
        {"default_premium_limits": {"limit_daily_credits_micro": 1, "limit_monthly_credits_micro": 1}},
        {"model_catalog": acceptance_catalog()["model_catalog"][::-1]},
    ],
)
def test_everything_else_is(change: dict[str, Any]) -> None:
    assert hash_of(acceptance_catalog() | change) != hash_of(acceptance_catalog())


@pytest.mark.parametrize(
    ("name", "version", "known"),
    [("demo.yaml", 1_000_001, "8bb065910ee90ce3"), ("openai.yaml", 2_000_001, "924fe29d0aa7e6d9")],
)
def test_a_built_in_catalog_does_not_change_under_its_version(name: str, version: int, known: str) -> None:
    """If this fails, raise its `policy_version` by one: databases remember the content of the old one."""
    tree = yaml.safe_load((resources.files("shared.model_catalog") / name).read_text(encoding="utf-8"))
    assert tree["policy_version"] == version
    assert hash_of(tree).startswith(known)
