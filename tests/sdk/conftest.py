"""A fake API server, and the SDK's client of it over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sdk.fake_api import FakeApi

from disttrain.sdk import Client


@pytest.fixture
def api() -> Iterator[FakeApi]:
    server = FakeApi()
    yield server
    server.stop()


@pytest.fixture
def config(api: FakeApi, tmp_path: Path) -> Path:
    return api.kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def client(config: Path) -> Client:
    return Client.connect(kubeconfig=config)


def job(name: str = "mnist", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "disttrain.dev/v1alpha1",
        "kind": "DistTrainJob",
        "metadata": {"name": name},
        "spec": {"image": "trainer:dev", "command": ["python", "train.py"], "workers": 3, **spec},
    }


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    at = "2030-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason or kind, "message": message, "lastTransitionTime": at}


def pod(
    job_name: str, index: int, *, uid: str = "", phase: str = "Running", node: str = "node-1", **status: Any
) -> dict[str, Any]:
    states = {
        "Running": {"running": {}},
        "Succeeded": {"terminated": {"exitCode": 0}},
        "Failed": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": f"{job_name}-{index}", **({"uid": uid} if uid else {}),
            "labels": {"disttrain.dev/job": job_name, "disttrain.dev/worker-index": str(index), "disttrain.dev/incarnation": "1"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "trainer"}]},
        "status": {"phase": phase, "containerStatuses": [{"name": "trainer", "state": states.get(phase, {"waiting": {"reason": phase}})}], **status},
    }  # fmt: skip


def event(
    about: dict[str, Any], reason: str, message: str, *, kind: str = "Normal", at: str = "2030-01-01T00:01:00Z"
) -> dict[str, Any]:
    meta = about["metadata"]
    thing = {"kind": about["kind"], "name": meta["name"], "uid": meta.get("uid")}
    return {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{meta['name']}.{reason}.{abs(hash((message, at))):x}"},
        "involvedObject": thing, "reason": reason, "message": message, "type": kind, "lastTimestamp": at,
    }  # fmt: skip
