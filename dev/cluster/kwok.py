"""Fake nodes for tests of scale: thousands of pods on the real API server, without a container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dev.cluster import components
from dev.cluster.api import Api, ApiError, connect, path_of
from dev.cluster.command import Trouble
from dev.cluster.paths import Paths
from dev.cluster.processes import Processes
from dev.cluster.progress import step
from dev.cluster.toolchain import ensure
from dev.cluster.versions import KWOK

STAGES = Path(__file__).resolve().parent / "kwok-stages.yaml"
LABEL = {"type": "kwok"}
# Without the taint the scheduler would put real pods there.
TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}


def fake_node(number: int) -> dict[str, Any]:
    """A node that only KWOK looks after; pods get there by nodeSelector `type: kwok` and a toleration. Pure."""
    name = f"kwok-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**LABEL, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [TAINT]},
    }


def up(paths: Paths, nodes: int) -> None:
    """Start KWOK and make the nodes."""
    api = connect(paths.pki)
    ensure(paths, (KWOK,))
    with step(f"{nodes} fake nodes") as current:
        processes = Processes(paths.processes)
        processes.ensure(components.kwok(paths, STAGES))
        for number in range(1, nodes + 1):
            api.apply(fake_node(number))
        current.note = "nodeSelector: {type: kwok}, toleration: {key: kwok.x-k8s.io/node, operator: Exists}"
        if not processes.is_alive("kwok"):
            raise Trouble(f"kwok ended at once: see {paths.logs / 'kwok.log'}")


def down(paths: Paths) -> None:
    """Remove the fake nodes with their pods, and stop KWOK."""
    api = connect(paths.pki)
    with step("removing the fake nodes"):
        fake = [item["metadata"]["name"] for item in api.get(f"{path_of('Node')}?labelSelector=type=kwok")["items"]]
        for name in fake:
            _delete(api, path_of("Node", name))
        pods = api.get("/api/v1/pods")["items"]
        places = {(item["metadata"]["namespace"], item["spec"].get("nodeName")) for item in pods}
        for namespace, name in places:
            if name in fake:
                selector = f"fieldSelector=spec.nodeName={name}&gracePeriodSeconds=0"
                _delete(api, f"/api/v1/namespaces/{namespace}/pods?{selector}")
        Processes(paths.processes).stop(["kwok"])


def _delete(api: Api, path: str) -> None:
    try:
        api.request("DELETE", path)
    except ApiError as error:
        if error.status != 404:
            raise
