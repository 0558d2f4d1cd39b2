"""Values: checked, explained, complete."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from tests.helm.conftest import CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
OPEN_MAPS = ("affinity", "global")
"""Kubernetes' own types, which the chart passes on unread."""


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        full = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value and full != "resources":
            yield from leaves(value, full)
        else:
            yield full, value


def objects_of(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from objects_of(child, f"{path}.{name}".lstrip("."))


def test_the_defaults_pass_the_schema_and_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


def test_the_schema_knows_every_value_and_the_values_show_every_one() -> None:
    in_schema = {
        f"{path}.{name}".lstrip(".") for path, schema in objects_of(SCHEMA) for name in schema.get("properties", {})
    }
    shown = {path for path, _ in leaves(VALUES)}
    shown |= {".".join(path.split(".")[:n]) for path in shown for n in range(1, path.count(".") + 1)}
    assert in_schema - {"global", "resources.requests", "resources.limits"} == shown


def test_the_schema_is_strict_and_explains_every_value() -> None:
    for path, schema in objects_of(SCHEMA):
        assert "additionalProperties" in schema or path in OPEN_MAPS, path
        for name, child in schema.get("properties", {}).items():
            assert child.get("description", "").endswith("."), f"{path}.{name}"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("replicaCount=two", "'/replicaCount': got string, want integer"),
        ("replicaCount=-1", "'/replicaCount'"),
        ("image.tagg=dev", "additional properties 'tagg' not allowed"),
        ("nonsense=1", "additional properties 'nonsense' not allowed"),
        ("image.repository=UPPER:tag", "'/image/repository'"),
        ("image.digest=abc", "'/image/digest'"),
        ("log.level=loud", "value must be one of 'debug', 'info', 'warning', 'error'"),
        ("watchNamespaces=team-a", "'/watchNamespaces': got string, want array"),
        ("watchNamespaces={Team A}", "'/watchNamespaces/0'"),
        ("trustedNodes={Node 1}", "'/trustedNodes/0'"),
        ("crds.keep=maybe", "'/crds/keep': got string, want boolean"),
        ("stream.port=99999", "'/stream/port'"),
        ("runAsUser=0", "'/runAsUser'"),
        ("metrics.podMonitor.interval=often", "'/metrics/podMonitor/interval'"),
        ("resources.limit.memory=1Gi", "additional properties 'limit' not allowed"),
        ("extraEnv[0].name=DISTTRAIN_STREAM_URL", "extraEnv: DISTTRAIN_STREAM_URL belongs to the chart"),
        (r"commonLabels.app\.kubernetes\.io/name=x", "commonLabels: app.kubernetes.io/name is set by the chart"),
        (r"podLabels.app\.kubernetes\.io/component=x", "podLabels: app.kubernetes.io/component is set by the chart"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(
    run_helm: Callable[..., subprocess.CompletedProcess[str]], wrong: str, says: str
) -> None:
    done = run_helm("template", "x", str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert says in done.stderr


def test_a_label_in_two_places_is_refused(run_helm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run_helm("template", "x", str(CHART), "--set", "commonLabels.team=a,podLabels.team=b")
    assert "podLabels: team is in commonLabels already" in done.stderr


def test_the_readme_has_a_row_for_every_value_with_its_default() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `(.*?)` \| (.+) \|$", (CHART / "README.md").read_text(), flags=re.M)
    assert {name: default for name, default, _ in rows} == {path: json.dumps(value) for path, value in leaves(VALUES)}
    assert all(text.strip() for _, _, text in rows)
