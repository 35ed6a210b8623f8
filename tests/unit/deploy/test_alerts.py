"""The alerts: they ask for what exists, and the runbook knows each of them and nothing else."""

from __future__ import annotations

import re
import shlex
from typing import Final

import pytest

from shared.cli import _parser
from shared.ids import new_uuid4
from shared.outbox.messages import QUEUES
from tests.support.deploy_files import RUNBOOK, Tree, alerts
from tests.support.prometheus_rule import RESOURCE, RULES, write_resource
from tests.support.promql import exposed_series, grouping_labels, problems_of, series_of, words_of
from tests.support.settings_reference import list_settings

PROMISED: Final = {
    "MiniChatTtftOverheadHigh": ("mini_chat_ttft_overhead_ms_bucket", "> 50", "5m", "warning"),
    "MiniChatTimeToAbortHigh": ("mini_chat_time_to_abort_ms_bucket", "> 200", "5m", "critical"),
    "MiniChatAuditFailures": ("mini_chat_audit_emit_total", "> 0", None, "warning"),
    "MiniChatProviderErrors": ("mini_chat_provider_errors_total", "> 0.05", "5m", "warning"),
    "MiniChatOrphansNotFinalized": ("mini_chat_orphan_detected_total", "> 0", "15m", "critical"),
    "MiniChatCleanupFailed": ("mini_chat_cleanup_failed_total", "[15m])) > 0", None, "warning"),
    "MiniChatDeadLetters": ("mini_chat_outbox_dead_letter_backlog", "> 0", "15m", "critical"),
    "MiniChatUsageDeadLetterOld": ("mini_chat_outbox_dead_letter_oldest_age_seconds", "> 3600", None, "critical"),
}
"""What has to be alerted on: a series, the limit, how long it may be beyond it, and how bad that is."""

KEYS = {setting.key for setting in list_settings()}
RUNBOOK_TEXT = RUNBOOK.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK_TEXT, re.MULTILINE | re.DOTALL))
_IN_A_BLOCK = re.findall(r"^mini-chat [^#\n]+", RUNBOOK_TEXT, re.MULTILINE)
_IN_A_SENTENCE = re.findall(r"`(mini-chat [^`]+)`", RUNBOOK_TEXT)
COMMANDS = sorted({" ".join(command.replace("…", "").split()) for command in (*_IN_A_BLOCK, *_IN_A_SENTENCE)})


def by_name(alert: Tree) -> str:
    name: str = alert["alert"]
    return name


@pytest.mark.parametrize("alert", alerts(), ids=by_name)
def test_an_alert_asks_for_series_and_labels_that_exist(alert: Tree) -> None:
    assert problems_of(alert["expr"]) == []


@pytest.mark.parametrize("alert", alerts(), ids=by_name)
def test_an_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(alert: Tree) -> None:
    assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"deploy/runbook.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("alert", alerts(), ids=by_name)
def test_a_text_names_only_labels_that_the_query_keeps(alert: Tree) -> None:
    """Prometheus leaves the place of an unknown label empty."""
    named = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["description"]))
    of_prometheus = series_of(alert["expr"]) & {"up", "probe_success"}
    kept = {label for name in of_prometheus for label in exposed_series()[name]}
    assert named <= kept | grouping_labels(alert["expr"])


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_promised_is_watched(name: str) -> None:
    series, limit, lasting, severity = PROMISED[name]
    (alert,) = [alert for alert in alerts() if alert["alert"] == name]
    assert series in series_of(alert["expr"])
    assert limit in alert["expr"]
    assert (alert.get("for"), alert["labels"]["severity"]) == (lasting, severity)


def test_names_of_alerts_are_unique() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)


def test_kinds_of_messages_that_alerts_name_exist() -> None:
    named = {
        kind
        for alert in alerts()
        for kinds in re.findall(r'kind=~?"([^"]+)"', alert["expr"])
        for kind in kinds.split("|")
    }
    assert named == set(QUEUES) - {"audit"}, "audit has an alert of its own"


def test_the_operator_gets_the_same_alerts() -> None:
    assert RESOURCE.read_text(encoding="utf-8") == write_resource(RULES.read_text(encoding="utf-8")), "run `make rules`"


def test_the_runbook_has_a_section_for_every_alert_and_no_other() -> None:
    assert list(SECTIONS) == [alert["alert"] for alert in alerts()]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_says_what_it_means_how_to_look_and_what_to_do(name: str) -> None:
    assert re.findall(r"^\*\*(\w+)\*\*:", SECTIONS[name], re.MULTILINE) == ["Means", "Look", "Do"]


def test_the_links_of_the_runbook_lead_to_its_sections() -> None:
    assert set(re.findall(r"\]\(#(\w+)\)", RUNBOOK_TEXT)) <= {name.lower() for name in SECTIONS}


def test_the_queries_of_the_runbook_ask_for_what_exists() -> None:
    blocks = re.findall(r"^```promql\n(.*?)^```", RUNBOOK_TEXT, re.MULTILINE | re.DOTALL)
    queries = [query for block in blocks for query in block.splitlines()]
    assert len(queries) > len(blocks) > 10
    assert [problem for query in queries for problem in problems_of(query)] == []
    assert words_of(RUNBOOK_TEXT) <= exposed_series().keys()


def test_the_settings_of_the_runbook_exist() -> None:
    groups = {key.partition(".")[0] for key in KEYS if "." in key}
    named = {key for key in re.findall(r"`([a-z_]+\.[a-z_.]+)`", RUNBOOK_TEXT) if key.partition(".")[0] in groups}
    assert len(named) > 10
    assert named <= KEYS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_runbook_exist(command: str) -> None:
    serial = "7" if " outbox " in command else str(new_uuid4())
    values = {"ID": serial, "KIND": "usage_snapshot"}
    _parser().parse_args([values.get(word, word) for word in shlex.split(command)[1:]])
