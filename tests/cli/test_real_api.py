"""The CLI against a real API server: what it refuses, and how that reads. The words are the server's, so they are checked here."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Done

from disttrain.cli.main import run
from disttrain.sdk import Client, Invalid
from disttrain.sdk.check import check
from disttrain.sdk.connection import connect
from disttrain.sdk.transport import Request

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

Real = Callable[..., Done]
IMAGE = "nowhere.invalid/trainer:dev"
"""Nothing is started."""


@pytest.fixture(scope="module")
def namespace(kubeconfig: Path) -> Iterator[str]:
    """One of its own, deleted afterwards."""
    name = f"cli-{uuid.uuid4().hex[:6]}"
    transport, _ = connect(kubeconfig)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    transport.send(Request(method="POST", path="/api/v1/namespaces", body=body))
    yield name
    transport.send(Request(method="DELETE", path=f"/api/v1/namespaces/{name}"))


@pytest.fixture
def real(kubeconfig: Path, namespace: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Real:
    """`real("list")`"""
    monkeypatch.setattr("sys.argv", ["disttrain"])

    def call(*args: str, stdin: dict[str, Any] | None = None) -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(stdin)))
        capfd.readouterr()
        code = run([*args, "--kubeconfig", str(kubeconfig), "-n", namespace])
        said = capfd.readouterr()
        return Done(code, said.out, said.err)

    return call


def job(name: str, **spec: Any) -> dict[str, Any]:
    whole = {"image": IMAGE, "command": ["true"], "suspend": True, **spec}  # suspended: nothing is started
    return {"apiVersion": "disttrain.dev/v1alpha1", "kind": "DistTrainJob", "metadata": {"name": name}, "spec": whole}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"wrkers": 3, "standbyy": 1}, "spec.wrkers: unknown field, did you mean spec.workers?"),
        ({"wrkers": 3, "standbyy": 1}, "spec.standbyy: unknown field, did you mean spec.standby?"),
        ({"workers": "three"}, 'spec.workers: "string": must be of type integer'),
        ({"workers": 0}, "spec.workers: 0: should be greater than or equal to 1"),
        ({"entrypoint": "a:b"}, "spec: set exactly one of entrypoint"),
        ({"queueName": "q"}, "spec.queueName: not implemented yet: spec.queueName"),
    ],
)
def test_a_wrong_job_is_refused_field_by_field(real: Real, spec: dict[str, Any], says: str) -> None:
    done = real("submit", "-f", "-", stdin=job("wrong", **spec))
    assert done.code == 2
    assert says in done.err


def test_a_long_name_is_refused(real: Real) -> None:
    done = real("submit", "-f", "-", stdin=job("x" * 60))
    assert done.code == 2
    assert "metadata.name must have at most 52 characters" in done.err


def test_submit_is_apply(real: Real) -> None:
    assert "created (dry run)" in real("submit", "-f", "-", "--dry-run", stdin=job("applied")).err
    assert "created" in real("submit", "-f", "-", stdin=job("applied")).err
    assert "unchanged" in real("submit", "-f", "-", stdin=job("applied")).err
    assert "changed" in real("submit", "-f", "-", stdin=job("applied", activeDeadlineSeconds=60)).err
    taken_back = real("submit", "-f", "-", stdin=job("applied"))
    assert "disttrainjob applied changed" in taken_back.err
    assert "activeDeadlineSeconds" not in real("get", "applied", "-o", "yaml").out
    refused = real("submit", "-f", "-", stdin=job("applied", workers=5))
    assert "spec.workers: spec.workers cannot be changed after creation" in refused.err


def test_a_field_that_somebody_else_set_is_a_conflict(real: Real, kubeconfig: Path, namespace: str) -> None:
    real("submit", "-f", "-", stdin=job("contested"))
    path = f"/apis/disttrain.dev/v1alpha1/namespaces/{namespace}/disttrainjobs/contested"
    patch = Request(
        method="PATCH",
        path=path,
        query={"fieldManager": "kueue"},
        body={"spec": {"suspend": False}},
        content_type="application/merge-patch+json",
    )
    connect(kubeconfig)[0].send(patch)
    conflict = real("submit", "-f", "-", stdin=job("contested"))
    assert conflict.code == 2
    assert 'spec.suspend: conflict with "kueue"' in conflict.err
    assert "--force-conflicts" in conflict.err
    assert real("submit", "-f", "-", "--force-conflicts", stdin=job("contested")).code == 0


def test_what_suspend_has_set_a_file_may_set_back(real: Real) -> None:
    started = job("own") | {"spec": job("own")["spec"] | {"nodeSelector": {"there": "is-none"}, "suspend": False}}
    real("submit", "-f", "-", stdin=started)
    real("suspend", "own")
    assert real("submit", "-f", "-", stdin=started).code == 0
    assert "suspend: false" in real("get", "own", "-o", "yaml").out


def test_a_job_is_listed_described_watched_and_deleted(real: Real) -> None:
    real("submit", "-f", "-", stdin=job("seen", checkpoint={"volume": {"size": "1Gi"}}))
    assert "seen" in real("list", "-o", "wide").out
    assert "python" not in real("describe", "seen").err
    assert real("describe", "seen").code == 0
    done = real("wait", "seen", "--timeout", "1")
    assert (done.code, "it goes on" in done.err) == (124, True)
    assert real("logs", "seen").code == 0
    deleted = real("delete", "seen", "--wait", "--timeout", "60")
    assert deleted.code == 0
    assert "kubectl delete pvc seen-checkpoints" in deleted.err
    assert real("get", "seen").err == 'error: disttrainjobs.disttrain.dev "seen" not found\n'


CANDIDATES: list[dict[str, Any]] = [
    {}, {"workers": 0}, {"workers": "3"}, {"workers": 3.5}, {"processesPerWorker": 65}, {"processesPerWorker": "many"}, {"processesPerWorker": 2},
    {"command": []}, {"env": [{"name": "RANK"}]}, {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "a"}}}]},
    {"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}}, {"resources": {"limits": {"memory": "lots"}}}, {"resources": {"limits": {"cpu": 0.5}}},
    {"checkpoint": {}}, {"checkpoint": {"volume": {}}}, {"checkpoint": {"volume": {"size": 1}}},
    {"checkpoint": {"volume": {"size": "1Gi"}, "everySteps": 1, "everySeconds": 1}}, {"recovery": {"rules": [{"action": "Fail"}]}},
    {"recovery": {"rules": [{"action": "RestartWorker", "onExitCodes": [1]}]}}, {"recovery": {"budget": {"failures": 0}}},
    {"volumes": [{"name": "token", "mountPath": "/x", "emptyDir": {}}]}, {"volumes": [{"name": "x", "mountPath": "x", "emptyDir": {}}]},
    {"strategy": {"parallelism": {"data": 2}}}, {"strategy": {"compression": {"method": "none"}}}, {"evaluation": {}}, {"suspend": "yes"},
    {"seed": 2**31}, {"seed": 7}, {"seed": 0}, {"checkpoint": {"volume": {"size": "1Gi"}, "async": False}},
    {"checkpoint": {"volume": {"size": "1Gi"}, "keep": 3}},
    {"podTemplate": {"securityContext": {"runAsUser": 0}}}, {"nodeSelector": {"a": 1}}, {"cleanPodPolicy": "Some"},
]  # fmt: skip
"""Right and wrong specs, from every corner of the API."""


def test_what_explain_refuses_the_server_refuses_and_the_other_way_round(kubeconfig: Path, namespace: str) -> None:
    client = Client.connect(kubeconfig=kubeconfig, namespace=namespace)

    def accepted(raw: dict[str, Any]) -> bool:
        try:
            return client.submit(raw, dry_run=True).created
        except Invalid:
            return False

    here = [not check(job("candidate", **spec)) for spec in CANDIDATES]
    there = [accepted(job("candidate", **spec)) for spec in CANDIDATES]
    assert [spec for spec, a, b in zip(CANDIDATES, here, there, strict=True) if a != b] == []
    assert {True, False} == set(there)
