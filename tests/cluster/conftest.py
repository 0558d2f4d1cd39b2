"""The cluster layer: an installed operator and a namespace for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dev.access import environment

from support.cluster import Cluster, fresh_namespaces


@pytest.fixture(scope="session")
def kubectl_path() -> str:
    found = shutil.which("kubectl", path=environment()["PATH"])
    if found is None:
        pytest.fail("kubectl is missing: run `make cluster-up`, which builds it")
    return found


@pytest.fixture
def cluster(kubeconfig: Path, kubectl_path: str) -> Iterator[Cluster]:
    """A fresh namespace."""
    yield from fresh_namespaces(kubeconfig, kubectl_path, "t")


@pytest.fixture
def elsewhere(kubeconfig: Path, kubectl_path: str) -> Iterator[Cluster]:
    """Another fresh namespace."""
    yield from fresh_namespaces(kubeconfig, kubectl_path, "u")


@pytest.fixture
def system(kubeconfig: Path, kubectl_path: str) -> Cluster:
    """Where the operator runs."""
    return Cluster(kubeconfig, "disttrain-system", kubectl_path)
