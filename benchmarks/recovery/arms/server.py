"""What the arms on Kubernetes share: a real API server and the played kubelet of its only node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.recovery.arms.arm import Run, process, source_path
from dev.access import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))  # as tests/conftest.py does

from support import own_apiserver
from support.own_apiserver import ApiServer

NAMESPACE = "team"


def missing() -> str | None:
    """Why there can be no API server; `make cluster-up` builds it."""
    return own_apiserver.missing()


@contextmanager
def api_server(run: Run) -> Iterator[ApiServer]:
    """With an etcd of its own, gone afterwards."""
    with own_apiserver.running(run.folder) as server:
        yield server


@contextmanager
def kubelet(server: ApiServer, run: Run) -> Iterator[None]:
    """Starts what is scheduled, until the end."""
    url = f"https://127.0.0.1:{server.port}"
    argv = ["-m", "benchmarks.recovery.arms.kubelet", url, "admin-token", NAMESPACE, str(run.folder)]
    with process(argv, {"PYTHONPATH": source_path()}, run.folder / "kubelet.log"):
        yield


def delete_pod(server: ApiServer, name: str) -> None:
    """By force: no grace period, nobody waits."""
    server.kubectl("delete", "pod", name, "-n", NAMESPACE, "--force", "--grace-period=0", "--wait=false")
