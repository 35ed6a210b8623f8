"""What is wrong with a query: names that no process exposes, labels that a series does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

import promql_parser as promql
from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import Metrics

_OF_EVERY_TARGET: Final = frozenset({"job", "instance", "namespace", "pod"})
_OF_PROMETHEUS: Final = {
    "up": _OF_EVERY_TARGET,
    "probe_success": _OF_EVERY_TARGET,
    "ALERTS": _OF_EVERY_TARGET | {"alertname", "alertstate", "severity"},
}
_GRAFANA_VARIABLES: Final = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}


@cache
def exposed_series() -> Mapping[str, frozenset[str]]:
    """The labels of every series that Prometheus has of the product, by name."""
    metrics = Metrics("mini_chat")
    series: dict[str, frozenset[str]] = dict(_OF_PROMETHEUS)
    for metric in vars(metrics).values():
        match metric:
            case Counter():
                series[f"{metric._name}_total"] = _labels_of(metric)
            case Gauge():
                series[metric._name] = _labels_of(metric)
            case Histogram():
                series[f"{metric._name}_bucket"] = _labels_of(metric) | {"le"}
                series[f"{metric._name}_sum"] = series[f"{metric._name}_count"] = _labels_of(metric)
    return series


def problems_of(query: str) -> list[str]:
    """One line for everything in `query` that does not exist; empty if all is well.

    Raises:
        ValueError: it is not PromQL.
    """
    for variable, value in _GRAFANA_VARIABLES.items():
        query = query.replace(variable, value)
    return list(_problems_in(promql.parse(query)))


def series_of(query: str) -> set[str]:
    """The names of all series in `query`."""
    return {name for name, _ in _selectors_in(promql.parse(query))}


def grouping_labels(query: str) -> set[str]:
    """The labels by which anything in `query` is grouped."""
    return {label for labels in re.findall(r"\bby \(([^)]*)\)", query) for label in re.findall(r"\w+", labels)}


def words_of(text: str) -> set[str]:
    """Everything in prose that looks like a series of the product."""
    return set(re.findall(r"\bmini_chat_[a-z0-9_]+", text))


def _labels_of(metric: Counter | Gauge | Histogram) -> frozenset[str]:
    return frozenset(metric._labelnames) | _OF_EVERY_TARGET


def _problems_in(expression: promql.Expr) -> Iterator[str]:
    for name, labels in _selectors_in(expression):
        if name not in exposed_series():
            yield f"{name}: no such series"
        else:
            yield from (f"{name}: no label {label}" for label in sorted(labels - exposed_series()[name]))
    for node in _nodes_in(expression):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            yield from _unknown_groups(node.expr, node.modifier.labels)
        if isinstance(node, promql.BinaryExpr) and node.modifier and node.modifier.matching:
            yield from _unknown_groups(node, node.modifier.matching.labels)


def _unknown_groups(expression: promql.Expr, labels: list[str]) -> Iterator[str]:
    """Labels that some series in `expression` does not have: it would be one group, whatever they are."""
    for name, _ in _selectors_in(expression):
        known = exposed_series().get(name, frozenset(labels))
        yield from (f"{name}: grouped by {label}, which it does not have" for label in labels if label not in known)


def _selectors_in(expression: promql.Expr) -> Iterator[tuple[str, set[str]]]:
    """Name, and labels that are matched, of every selector."""
    for node in _nodes_in(expression):
        if isinstance(node, promql.VectorSelector):
            yield node.name or "", {matcher.name for matcher in node.matchers.matchers}


def _nodes_in(expression: promql.Expr) -> list[promql.Expr]:
    nodes: list[promql.Expr] = []
    promql.walk(expression, nodes.append)
    return nodes
