"""The dashboards show what exists, and Grafana finds them."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from tests.support.deploy_files import DEPLOY, Tree, compose, dashboards, queries_of, read_yaml
from tests.support.promql import grouping_labels, problems_of

NAMES = list(dashboards())


def test_there_are_an_overview_and_one_for_each_part() -> None:
    assert NAMES == ["overview.json", "provider-and-money.json", "streaming.json", "workers.json"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_shows_series_and_labels_that_exist(name: str) -> None:
    queries = list(queries_of(dashboards()[name]["panels"]))
    assert len(queries) > 15
    problems = {(title, problem) for title, query in queries for problem in problems_of(query)}
    assert not problems


@pytest.mark.parametrize("name", NAMES)
def test_legends_name_labels_that_the_query_keeps(name: str) -> None:
    for panel in dashboards()[name]["panels"]:
        for target in panel.get("targets", []):
            named = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            assert named <= grouping_labels(target["expr"]), panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_stand_beside_each_other(name: str) -> None:
    panels = dashboards()[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    overlapping = [(one["title"], other["title"]) for one, other in combinations(panels, 2) if _overlap(one, other)]
    assert not overlapping


def test_dashboards_can_be_told_apart_and_found() -> None:
    assert len({board["uid"] for board in dashboards().values()}) == len(NAMES)
    assert all("mini-chat" in board["tags"] for board in dashboards().values())
    grafana = compose()["services"]["grafana"]
    mounted = {volume.split(":")[0]: volume.split(":")[1] for volume in grafana["volumes"]}
    provider = read_yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "mini-chat.yaml")["providers"][0]
    assert mounted["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/overview.json"


def test_every_panel_asks_the_source_that_is_provisioned() -> None:
    sources = read_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    assert {source["url"] for source in sources} == {"http://prometheus:9090", "http://alertmanager:9093"}
    uids = {
        panel["datasource"]["uid"]
        for board in dashboards().values()
        for panel in board["panels"]
        if panel["type"] != "row"
    }
    assert uids == {source["uid"] for source in sources if source.get("isDefault")}


def _overlap(one: Tree, other: Tree) -> bool:
    a, b = one["gridPos"], other["gridPos"]
    return bool(
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )
