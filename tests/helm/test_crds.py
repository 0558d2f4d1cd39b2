"""The chart serves the very CRD of the repository, upgrades it and leaves it behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tests.helm.conftest import CHART, Render, of_kind

SOURCE = Path(__file__).parents[2] / "crds"


def bare(crd: dict[str, Any]) -> dict[str, Any]:
    """Without what the chart adds: labels and annotations."""
    metadata = {k: v for k, v in crd["metadata"].items() if k not in ("labels", "annotations")}
    return crd | {"metadata": metadata}


def test_the_chart_links_to_the_one_crd_there_is() -> None:
    assert (CHART / "files" / "crds").resolve() == SOURCE


def test_what_is_rendered_is_the_same_crd(render: Render) -> None:
    rendered = [bare(crd) for crd in of_kind(render(), "CustomResourceDefinition")]
    assert rendered == [bare(yaml.safe_load(p.read_text())) for p in sorted(SOURCE.glob("*.yaml"))]


def test_crds_are_templates_so_that_upgrade_changes_them_and_uninstall_keeps_them(render: Render) -> None:
    assert not (CHART / "crds").exists()  # helm never upgrades what lies there
    (crd,) = of_kind(render(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (crd,) = of_kind(render(**{"crds.keep": False}), "CustomResourceDefinition")
    assert "annotations" not in crd["metadata"]


def test_they_can_be_left_to_an_administrator(render: Render) -> None:
    assert not of_kind(render(**{"crds.enabled": False}), "CustomResourceDefinition")
