"""The files of `deploy/`, read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
RUNBOOK = DEPLOY / "runbook.md"
KUBERNETES = DEPLOY / "kubernetes"

Tree = dict[str, Any]


@cache
def compose() -> Tree:
    return read_yaml(COMPOSE)


@cache
def kustomization() -> Tree:
    return read_yaml(DEPLOY / "kustomization.yaml")


@cache
def alerts() -> list[Tree]:
    groups = read_yaml(DEPLOY / "prometheus" / "rules.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def dashboards() -> dict[str, Tree]:
    """By file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana" / "dashboards").iterdir())}


@cache
def kubernetes_objects() -> list[Tree]:
    """Everything that is applied, but for what kustomize generates."""
    return [
        document
        for path in sorted(KUBERNETES.rglob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]


def kubernetes_object(kind: str, name: str) -> Tree:
    found = [item for item in kubernetes_objects() if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def queries_of(panels: list[Tree]) -> Iterator[tuple[str, str]]:
    """Title and query of every target."""
    for panel in panels:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))


def read_yaml(path: Path) -> Tree:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(tree, dict), path
    return tree
