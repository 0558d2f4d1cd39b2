"""docs/install.md names values, objects and alerts that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from tests.helm.conftest import CHART, Render, of_kind

TEXT = (Path(__file__).parents[2] / "docs" / "install.md").read_text()
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def test_every_value_that_is_set_exists() -> None:
    named = re.findall(r"--set ([\w.]+)=", TEXT) + re.findall(r"`((?:tls|rbac|crds|metrics)\.[\w.]+)(?:=\w+)?`", TEXT)
    assert len(named) > 5
    for path in named:
        found: Any = VALUES
        for part in path.split("."):
            assert part in found, path
            found = found[part]


def test_every_alert_is_explained_and_every_explained_alert_exists() -> None:
    rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert re.findall(r"^\| (Disttrain\w+) \|", TEXT, flags=re.M) == [rule["alert"] for rule in rules]


def test_the_roles_of_people_are_the_charts(render: Render) -> None:
    named = set(re.findall(r"`(disttrain-(?:viewer|editor|debugger))`", TEXT))
    made = {role["metadata"]["name"] for role in of_kind(render(), "ClusterRole")}
    assert named and named <= made
