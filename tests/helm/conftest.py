"""Helm as a subprocess: the chart is tested by what it renders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dev.cluster.paths import current_paths

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]

CHART = Path(__file__).parents[2] / "helm" / "disttrain"

MISSING = "helm is missing: `make cluster-up` builds it; by hand: `go install helm.sh/helm/v4/cmd/helm@v4.3.1`, then put it on PATH"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs helm runs with the layer before which `make test` has built it; without helm it fails, never skips."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and "helm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.server)


def find_helm() -> Path | None:
    """The one that `make cluster-up` has built, else the one on PATH."""
    found = shutil.which("helm", path=f"{current_paths().bin}{os.pathsep}{os.environ['PATH']}")
    return Path(found) if found else None


@pytest.fixture(scope="session")
def helm() -> Path:
    """The helm binary; its absence is a failure, never a silent skip."""
    found = find_helm()
    if found is None:
        pytest.fail(MISSING, pytrace=False)
    return found


@pytest.fixture(scope="session")
def run_helm(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run helm away from the user's own configuration."""
    home = tmp_path_factory.mktemp("helm")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(home / "none")}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([helm, *args], capture_output=True, text=True, env=env, check=False, timeout=60)

    return run


@pytest.fixture(scope="session")
def render(run_helm: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """`render(value={…}, …)`: the objects of release `disttrain` in namespace `disttrain-system`."""

    @lru_cache(maxsize=64)  # half a second each, and most tests ask for the defaults
    def text(*args: str) -> str:
        done = run_helm("template", "disttrain", str(CHART), "--namespace", "disttrain-system", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def objects(**values: Any) -> Objects:
        sets = [flag for name, value in values.items() for flag in ("--set-json", f"{name}={json.dumps(value)}")]
        return [found for found in yaml.safe_load_all(text(*sets)) if found]

    return objects


def of_kind(objects: Objects, *kinds: str) -> Objects:
    """Those of some kinds."""
    return [found for found in objects if found["kind"] in kinds]


def one(objects: Objects, kind: str, name: str = "") -> dict[str, Any]:
    """The only one of a kind (and a name that ends so)."""
    (found,) = [o for o in of_kind(objects, kind) if o["metadata"]["name"].endswith(name)]
    return found
