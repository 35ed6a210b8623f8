"""The alerts as the Prometheus operator takes them: `make rules` writes what `deploy/prometheus/rules.yml` says."""

from __future__ import annotations

import textwrap

from tests.support.deploy_files import DEPLOY, KUBERNETES

RULES = DEPLOY / "prometheus" / "rules.yml"
RESOURCE = KUBERNETES / "prometheus-operator" / "rules.yaml"

_HEAD = """\
# Written by `make rules` from deploy/prometheus/rules.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: mini-chat
spec:
"""


def write_resource(rules: str) -> str:
    """A PrometheusRule with the groups of `rules`."""
    groups = rules[rules.index("groups:") :]
    return _HEAD + textwrap.indent(groups, "  ")


if __name__ == "__main__":
    RESOURCE.write_text(write_resource(RULES.read_text(encoding="utf-8")), encoding="utf-8")
