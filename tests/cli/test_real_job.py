"""The CLI beside real training: real pods, real logs, real exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from disttrain.sdk import Client, LogLine
from disttrain.sdk.connection import connect
from disttrain.sdk.transport import Request
from support.cluster import trainer_image

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

COUNT = "import os, time\nfor s in range({steps}):\n    print('step', s, flush=True); time.sleep(0.25)"


@pytest.fixture(scope="module")
def client(kubeconfig: Path) -> Iterator[Client]:
    """In a namespace of its own, deleted afterwards."""
    name = f"cli-{uuid.uuid4().hex[:6]}"
    transport, _ = connect(kubeconfig)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    transport.send(Request(method="POST", path="/api/v1/namespaces", body=body))
    yield Client.connect(kubeconfig=kubeconfig, namespace=name)
    transport.send(Request(method="DELETE", path=f"/api/v1/namespaces/{name}"))


def job(name: str, code: str, **spec: Any) -> dict[str, Any]:
    whole = {
        "image": trainer_image(), "command": ["python", "-c", code], "workers": 2, "resources": {"limits": {"memory": "256Mi"}},
        "podTemplate": {"imagePullPolicy": "IfNotPresent", "terminationGracePeriodSeconds": 5}, **spec,
    }  # fmt: skip
    return {"apiVersion": "disttrain.dev/v1alpha1", "kind": "DistTrainJob", "metadata": {"name": name}, "spec": whole}


def start(kubeconfig: Path, client: Client, *args: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "disttrain.cli.main",
        *args,
        "--kubeconfig",
        str(kubeconfig),
        "-n",
        client.namespace,
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(running: subprocess.Popen[str], text: str = "") -> tuple[int, str]:
    said, _ = running.communicate(text, timeout=200)
    return running.returncode, said


def test_submit_follows_to_success_and_the_logs_of_all_ranks_are_there(kubeconfig: Path, client: Client) -> None:
    code, said = finish(
        start(kubeconfig, client, "submit", "-f", "-", "--follow"), yaml.safe_dump(job("good", COUNT.format(steps=4)))
    )
    assert code == 0, said
    assert "incarnation 1 runs on 2 workers" in said
    assert "good Succeeded: all 2 workers finished" in said
    lines = [line for line in client.logs("good") if line.rank is not None]
    assert sorted((line.rank, line.text) for line in lines) == [
        (rank, f"step {s}") for rank in range(2) for s in range(4)
    ]
    assert [line.time for line in lines] == sorted(line.time for line in lines)


def test_a_program_that_fails_exits_1_and_shows_its_traceback(kubeconfig: Path, client: Client) -> None:
    raw = job(
        "bad", "def load():\n    raise ValueError('no such sample: 42')\nload()", recovery={"budget": {"failures": 0}}
    )
    code, said = finish(start(kubeconfig, client, "submit", "-f", "-", "--follow"), yaml.safe_dump(raw))
    assert code == 1, said
    assert "ValueError: no such sample: 42" in said
    assert "logs bad" in said and "--errors" in said
    code, said = finish(start(kubeconfig, client, "logs", "bad", "--errors"))
    assert code == 0
    assert "Traceback (most recent call last):" in said
    assert "ValueError: no such sample: 42" in said


def test_logs_go_on_in_the_pod_that_replaces_a_deleted_one(kubeconfig: Path, client: Client) -> None:
    client.submit(job("moved", COUNT.format(steps=40)))
    seen: list[LogLine] = []
    deleted = False
    for line in client.logs("moved", follow=True):
        seen.append(line)
        if not deleted and line.rank == 1 and line.text == "step 2":
            deleted = True
            path = f"/api/v1/namespaces/{client.namespace}/pods/moved-1"
            connect(kubeconfig)[0].send(Request(method="DELETE", path=path))
    ended = client.get("moved")
    assert ended.succeeded
    assert ended.status.recovery is not None and ended.status.recovery.count == 1
    assert [line.pod for line in seen if line.note] == ["moved-1"]
    for rank in range(2):  # every rank began twice, and its second life is complete
        texts = [line.text for line in seen if line.rank == rank]
        assert texts.count("step 0") == 2
        assert texts[-40:] == [f"step {s}" for s in range(40)]


def test_suspend_resume_and_ctrl_c(kubeconfig: Path, client: Client) -> None:
    client.submit(job("paused", COUNT.format(steps=2000)))
    client.wait("paused", until=lambda j: j.holds("Running"), timeout=120)
    follower = start(kubeconfig, client, "follow", "paused")
    assert follower.stdout is not None
    follower.stdout.readline()
    assert finish(start(kubeconfig, client, "suspend", "paused", "--wait", "--timeout", "60")) == (
        0,
        "disttrainjob paused suspended\n",
    )
    assert list(client.workers(client.get("paused"))) == []
    assert finish(start(kubeconfig, client, "resume", "paused", "--wait", "--timeout", "60")) == (
        0,
        "disttrainjob paused resumed\n",
    )
    follower.send_signal(signal.SIGINT)
    code, said = finish(follower)
    assert code == 130
    assert "the job goes on; watch it again: disttrain follow paused" in said
    client.delete("paused", wait=True, timeout=60)
    assert list(client.workers(client.submit(job("paused", "pass", suspend=True)).job)) == []
