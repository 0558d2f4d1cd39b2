"""Alerts ask for metrics that exist."""

from __future__ import annotations

import re

from prometheus_client import Counter
from tests.helm.conftest import Render, one

from disttrain_operator.shell.metrics import PREFIX, TABLE

METRICS = {PREFIX + name + ("_total" if kind is Counter else ""): labels for name, kind, _, labels in TABLE}


def test_every_alert_uses_metrics_and_labels_that_the_operator_has(render: Render) -> None:
    (group,) = one(render(**{"metrics.prometheusRule.enabled": True}), "PrometheusRule")["spec"]["groups"]
    assert len(group["rules"]) == 6
    for rule in group["rules"]:
        used = re.findall(r"(disttrain_\w+)(?:\{(\w+))?", rule["expr"])
        assert used
        for metric, label in used:
            assert metric in METRICS, rule["alert"]
            assert not label or label in METRICS[metric], rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")


def test_prometheus_own_templates_are_left_alone(render: Render) -> None:
    rules = one(render(**{"metrics.prometheusRule.enabled": True}), "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert "{{ $labels.code }}" in rules[4]["annotations"]["description"]
