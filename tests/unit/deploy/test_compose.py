"""The composition: its schema, its agreement with the product's defaults, and who reaches whom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from api.server import CLOSE_SECS, RELAY_SECS
from shared.cli import _parser
from shared.model_catalog.source import load_catalog
from shared.settings import ENV_PREFIX, Settings, load_settings
from tests.support.deploy_files import COMPOSE, DEPLOY, ROOT, Tree, compose, read_yaml
from worker.main import HAND_BACK_SECS

PRODUCT: Final = ("api", "worker", "migrate")
SECRETS: Final = {
    "POSTGRES_PASSWORD": "postgres-password",
    "VALKEY_PASSWORD": "valkey-password",
    "OPENAI_API_KEY": "sk-test",
    "GRAFANA_PASSWORD": "grafana-password",
    "MINI_CHAT_AUTH__JWT__JWKS_URL": "https://identity.example.com/jwks.json",
}

SERVICES: dict[str, Tree] = compose()["services"]


def test_the_file_follows_the_schema_of_compose() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = (str(checker), "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_secret_has_a_default() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert required == SECRETS.keys()
    with_default = set(re.findall(r"\$\{(\w+):-", COMPOSE.read_text()))
    assert with_default == {"HTTP_PORT", "GRAFANA_PORT"}
    assert not re.findall(r"\$\{\w+\}", COMPOSE.read_text()), "neither required nor with a default"


@pytest.mark.parametrize("name", PRODUCT)
def test_a_process_of_the_product_starts_with_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(variable)
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, _interpolated(value))
    monkeypatch.setenv("MINI_CHAT_HOST", "0.0.0.0")  # noqa: S104 (as the image does)
    settings = load_settings()
    assert settings.database.url is not None
    assert (
        settings.database.url.get_secret_value() == "postgresql://mini_chat:postgres-password@postgres:5432/mini_chat"
    )
    _parser().parse_args(SERVICES[name]["command"])


def test_the_catalog_that_is_mounted_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, mode = SERVICES["api"]["volumes"][0].split(":")
    assert target == SERVICES["api"]["environment"]["MINI_CHAT_CATALOG__PATH"]
    assert mode == "ro"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    load_catalog(Settings.model_validate({"catalog": {"path": str(ROOT / source)}}))


def test_grace_periods_are_longer_than_drains() -> None:
    settings = Settings()
    assert _seconds(SERVICES["api"]["stop_grace_period"]) >= settings.drain.lead_secs + RELAY_SECS + CLOSE_SECS + 5
    assert _seconds(SERVICES["worker"]["stop_grace_period"]) >= settings.worker.drain_secs + HAND_BACK_SECS + 5


def test_health_is_asked_where_processes_answer() -> None:
    settings = Settings()
    ports = {"api": settings.port, "worker": settings.metrics.worker_port}
    for name, port in ports.items():
        (question,) = [word for word in SERVICES[name]["healthcheck"]["test"] if "readyz" in word]
        assert f"http://127.0.0.1:{port}/readyz" in question


def test_there_are_replicas_of_api_and_worker() -> None:
    assert SERVICES["api"]["deploy"]["replicas"] >= 2
    assert SERVICES["worker"]["deploy"]["replicas"] >= 2


def test_every_service_is_healthy_or_says_so_and_comes_back() -> None:
    lasting = SERVICES.keys() - {"migrate"}
    assert [name for name in lasting if "healthcheck" not in SERVICES[name]] == []
    assert [name for name in lasting if SERVICES[name]["restart"] != "unless-stopped"] == []
    assert [name for name in lasting if "memory" not in SERVICES[name]["deploy"]["resources"]["limits"]] == []


def test_who_waits_for_whom_exists_and_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            has_health = "healthcheck" in SERVICES[other]
            is_job = SERVICES[other]["restart"] == "no"
            expected = "service_completed_successfully" if is_job else "service_healthy"
            assert has_health != is_job
            assert condition == {"condition": expected}, f"{name} waits for {other}"


@pytest.mark.parametrize("name", [*PRODUCT, "nginx", "prometheus", "blackbox", "alertmanager", "grafana"])
def test_a_service_may_do_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_public_side_reaches_neither_engines_nor_metrics() -> None:
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published == {"nginx", "grafana"}
    assert all(port.startswith("127.0.0.1:") for name in published for port in SERVICES[name]["ports"])
    assert SERVICES["nginx"]["networks"] == ["edge"]
    assert {name for name, service in SERVICES.items() if "edge" in service["networks"]} == {"nginx", "api"}
    networks: dict[str, Any] = compose()["networks"]
    assert networks["engines"] == networks["metrics"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == SERVICES["valkey"]["networks"] == ["engines"]
    assert SERVICES["prometheus"]["networks"] == ["metrics"]


def test_valkey_keeps_its_data_and_evicts_nothing() -> None:
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_uploads_are_put_down_on_a_disk() -> None:
    """What is in a tmpfs counts as memory of the container."""
    assert "/tmp" in SERVICES["api"]["volumes"]  # noqa: S108
    assert SERVICES["api"]["tmpfs"] == []


def test_there_are_connections_for_all_replicas() -> None:
    """Each process has its pool; what it opens beside it is a few."""
    replicas = sum(SERVICES[name]["deploy"]["replicas"] for name in ("api", "worker"))
    limit = int(SERVICES["postgres"]["command"][-1].partition("=")[2])
    assert replicas * (Settings().database.pool_size + 5) <= limit


def test_prometheus_scrapes_every_replica_of_every_process() -> None:
    settings = Settings()
    config = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for name, port in {"api": settings.metrics.api_port, "worker": settings.metrics.worker_port}.items():
        (found,) = jobs[f"mini-chat-{name}"]["dns_sd_configs"]
        assert (found["names"], found["type"], found["port"]) == ([name], "A", port)
        assert {"metrics"} & set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])
    probed = {(*found["names"], found["port"]) for found in jobs["mini-chat-ready"]["dns_sd_configs"]}
    assert probed == {("api", settings.port), ("worker", settings.metrics.worker_port)}
    assert all((DEPLOY / "prometheus" / rules).exists() for rules in config["rule_files"])


def test_files_that_are_mounted_exist() -> None:
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    mounted = [source for source, target, *_ in (volume.partition(":")[::2] for volume in volumes) if target]
    files = [source for source in mounted if source.startswith("./")]
    assert files
    assert [source for source in files if not (ROOT / source).exists()] == []
    assert {source for source in mounted if not source.startswith("./")} == compose()["volumes"].keys()


def _interpolated(value: str) -> str:
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: SECRETS[match[1]], value)
    assert "$" not in json.dumps(text)
    return text


def _seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])
