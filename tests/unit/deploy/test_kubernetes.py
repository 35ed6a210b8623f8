"""The manifests: their schemas, their agreement with the product's defaults, and what pods may do."""

from __future__ import annotations

import os
from typing import Any, Final

import kubernetes_validate
import pytest

from api.server import CLOSE_SECS, RELAY_SECS
from shared.cli import _parser
from shared.model_catalog.source import load_catalog
from shared.settings import ENV_PREFIX, Settings, load_settings
from tests.support.deploy_files import (
    DEPLOY,
    KUBERNETES,
    Tree,
    kubernetes_object,
    kubernetes_objects,
    kustomization,
    read_yaml,
)
from tests.support.promql import problems_of
from worker.main import HAND_BACK_SECS

PROBED: Final = ("mini-chat-api", "mini-chat-worker")
OF_OPERATORS: Final = {"ScaledObject", "PodMonitor", "PrometheusRule"}
"""Kinds that an operator brings along; the cluster's own schemas do not know them."""

WORKLOADS = [item for item in kubernetes_objects() if item["kind"] in {"Deployment", "Job"}]


def by_name(item: Tree) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def pod_of(workload: Tree) -> Tree:
    pod: Tree = workload["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize(
    "item", [item for item in kubernetes_objects() if item["kind"] not in OF_OPERATORS], ids=by_name
)
def test_an_object_follows_the_schema_of_its_kind(item: Tree) -> None:
    kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


def test_everything_is_applied() -> None:
    resources = {str(KUBERNETES / name.removeprefix("kubernetes/")) for name in kustomization()["resources"]}
    for component in kustomization()["components"]:
        folder = DEPLOY / component
        part = read_yaml(folder / "kustomization.yaml")
        assert part["kind"] == "Component"
        resources |= {str(folder / name) for name in part["resources"]}
    files = {str(path) for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert resources == files


def test_processes_start_with_the_settings_that_are_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(monkeypatch)
    assert str(settings.catalog.path) == "/etc/mini-chat/catalog.yaml"
    for workload in WORKLOADS:
        (container,) = pod_of(workload)["containers"]
        assert {"configMapRef": {"name": "mini-chat-settings"}} in container["envFrom"]
        _parser().parse_args(container["args"])


def test_the_catalog_is_generated_under_the_name_of_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    (generator,) = [item for item in kustomization()["configMapGenerator"] if item["name"] == "mini-chat-catalog"]
    name, _, source = generator["files"][0].partition("=")
    path = _settings(monkeypatch).catalog.path
    assert path is not None
    assert path.name == name
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("MINI_CHAT_CATALOG__PATH", str(DEPLOY / source))
    load_catalog(load_settings())
    for workload in PROBED:
        (container,) = pod_of(kubernetes_object("Deployment", workload))["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "catalog"]
        assert mount["mountPath"] == str(path.parent)
        assert "subPath" not in mount, "it would never be renewed"


@pytest.mark.parametrize("workload", WORKLOADS, ids=by_name)
def test_secrets_are_references(workload: Tree) -> None:
    (container,) = pod_of(workload)["containers"]
    assert {"MINI_CHAT_DATABASE__URL", "MINI_CHAT_REDIS__URL"} <= {variable["name"] for variable in container["env"]}
    for variable in container["env"]:
        assert variable.keys() == {"name", "valueFrom"}
        assert variable["valueFrom"].keys() == {"secretKeyRef"}
    assert not [item for item in kubernetes_objects() if item["kind"] == "Secret"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=by_name)
def test_variables_of_services_do_not_get_in_the_way(workload: Tree) -> None:
    """MINI_CHAT_API_PORT, which the cluster makes of a service's name, is an unknown key and would stop the start."""
    assert pod_of(workload)["enableServiceLinks"] is False


@pytest.mark.parametrize("workload", WORKLOADS, ids=by_name)
def test_a_pod_may_do_no_more_than_it_needs(workload: Tree) -> None:
    pod = pod_of(workload)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001, "as in the image"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert kubernetes_object("ServiceAccount", pod["serviceAccountName"])["automountServiceAccountToken"] is False
    assert "memory" in container["resources"]["limits"]


def test_the_user_is_that_of_the_image() -> None:
    assert "\nUSER 10001\n" in (DEPLOY / "Dockerfile").read_text()


def test_grace_periods_are_longer_than_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(monkeypatch)
    api, worker = (pod_of(kubernetes_object("Deployment", name)) for name in PROBED)
    assert api["terminationGracePeriodSeconds"] >= settings.drain.lead_secs + RELAY_SECS + CLOSE_SECS + 5
    assert worker["terminationGracePeriodSeconds"] >= settings.worker.drain_secs + HAND_BACK_SECS + 5


def test_the_uploads_of_a_moment_fit_into_the_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit a pod is evicted, streams and all."""
    rag = _settings(monkeypatch).rag
    largest = max(rag.uploaded_file_max_size_kb, rag.uploaded_image_max_size_kb) * 1024
    volumes = {volume["name"]: volume for volume in pod_of(kubernetes_object("Deployment", "mini-chat-api"))["volumes"]}
    limit = volumes["tmp"]["emptyDir"]["sizeLimit"]
    assert limit == "1Gi"
    assert 2 * rag.max_concurrent_uploads * largest <= 1024**3, "with room for thumbnails"


def test_a_replica_goes_on_accepting_until_it_is_known_to_be_red(monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = pod_of(kubernetes_object("Deployment", "mini-chat-api"))["containers"]
    probe = container["readinessProbe"]
    assert _settings(monkeypatch).drain.lead_secs >= probe["periodSeconds"] * probe["failureThreshold"]


@pytest.mark.parametrize("name", PROBED)
def test_probes_ask_where_the_process_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(monkeypatch)
    (container,) = pod_of(kubernetes_object("Deployment", name))["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    expected = (
        {"http": settings.port, "metrics": settings.metrics.api_port}
        if name == "mini-chat-api"
        else {"metrics": settings.metrics.worker_port}
    )
    assert ports == expected
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in asked.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {probe["port"] for probe in asked.values()} == {"http" if name == "mini-chat-api" else "metrics"}


@pytest.mark.parametrize("name", PROBED)
def test_selectors_find_the_pods(name: str) -> None:
    deployment = kubernetes_object("Deployment", name)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert kubernetes_object(kind, name)["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes_object("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"] == labels
    (endpoint,) = kubernetes_object("PodMonitor", name)["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": name}], "as rules and dashboards name it"


def test_the_ingress_leads_to_the_api_and_to_nothing_else() -> None:
    (rule,) = kubernetes_object("Ingress", "mini-chat")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = kubernetes_object("Service", path["backend"]["service"]["name"])
    assert (
        service["spec"]["selector"]
        == kubernetes_object("Deployment", "mini-chat-api")["spec"]["selector"]["matchLabels"]
    )
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_only_the_ingress_and_prometheus_reach_pods() -> None:
    api, worker = (kubernetes_object("NetworkPolicy", name)["spec"] for name in PROBED)
    settings = Settings()
    assert _admitted(api) == {"ingress-nginx": settings.port, "monitoring": settings.metrics.api_port}
    assert _admitted(worker) == {"monitoring": settings.metrics.worker_port}
    assert "ingress" not in kubernetes_object("NetworkPolicy", "mini-chat-migrate")["spec"]


@pytest.mark.parametrize("name", PROBED)
def test_the_replicas_belong_to_the_autoscaler(name: str) -> None:
    assert "replicas" not in kubernetes_object("Deployment", name)["spec"]


def test_the_api_is_scaled_by_attached_clients() -> None:
    spec = kubernetes_object("HorizontalPodAutoscaler", "mini-chat-api")["spec"]
    metrics = [metric["pods"]["metric"]["name"] for metric in spec["metrics"] if metric["type"] == "Pods"]
    assert metrics == ["mini_chat_attached_clients"]
    assert problems_of(metrics[0]) == []
    assert spec["scaleTargetRef"]["name"] == "mini-chat-api"


def test_workers_are_scaled_by_waiting_and_running_turns_from_none() -> None:
    """Waiting turns alone would take away the workers of the running ones."""
    spec = kubernetes_object("ScaledObject", "mini-chat-worker")["spec"]
    assert spec["scaleTargetRef"] == {"name": "mini-chat-worker"}
    assert spec["minReplicaCount"] == 0
    queries = {trigger["name"]: trigger["metadata"]["query"] for trigger in spec["triggers"]}
    assert "mini_chat_turns_queued" in queries["waiting"]
    assert "mini_chat_turns_running" in queries["running"]
    assert [problem for query in queries.values() for problem in problems_of(query)] == []
    (running,) = [trigger for trigger in spec["triggers"] if trigger["name"] == "running"]
    assert int(running["metadata"]["threshold"]) < Settings().worker.max_jobs


def _settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As a process finds them: the generated ones, and the secrets."""
    for variable in [variable for variable in os.environ if variable.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(variable)
    (generator,) = [item for item in kustomization()["configMapGenerator"] if item["name"] == "mini-chat-settings"]
    for literal in generator["literals"]:
        monkeypatch.setenv(*literal.split("=", 1))
    monkeypatch.setenv("MINI_CHAT_DATABASE__URL", "postgresql://user:password@postgres/mini_chat")
    monkeypatch.setenv("MINI_CHAT_REDIS__URL", "rediss://:password@valkey:6379/0")
    return load_settings()


def _admitted(policy: Tree) -> dict[str, Any]:
    """The port that each namespace may reach."""
    return {
        rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]: rule["ports"][0]["port"]
        for rule in policy["ingress"]
    }
