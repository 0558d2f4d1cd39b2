"""Releases: what install, upgrade and uninstall do to the CRD and the certificate; and one that really runs."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dev.access import environment, image
from tests.helm.conftest import CHART

from disttrain.sdk.connection import connect
from disttrain.sdk.transport import Request
from support import own_apiserver

pytestmark = pytest.mark.timeout(300)

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/disttrainjobs.disttrain.dev"
JOBS = "/apis/disttrain.dev/v1alpha1/namespaces/default/disttrainjobs"


@dataclass(frozen=True)
class Helm:
    """Helm in one namespace of one cluster."""

    binary: Path
    kubeconfig: Path
    namespace: str

    def __call__(self, *args: str, fails: bool = False) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [self.binary, *args, "--namespace", self.namespace],
            capture_output=True,
            text=True,
            env=env,
            check=False,
            timeout=200,
        )
        assert (done.returncode != 0) == fails, done.stderr + done.stdout
        return done.stderr if fails else done.stdout

    def secret(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = call(self.kubeconfig, "GET", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")[
            "data"
        ]
        return found


def call(kubeconfig: Path, method: str, path: str, **request: Any) -> Any:
    """The API server's answer."""
    return connect(kubeconfig)[0].send(Request(method=method, path=path, **request)).body


@pytest.fixture(scope="module")
def alone(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """On an API server of its own: nothing runs there."""
    own_apiserver.needed()
    with own_apiserver.bare(tmp_path_factory.mktemp("api")) as server:
        yield Helm(helm, server.kubeconfig("admin"), "disttrain-system")


@pytest.mark.server
def test_the_life_of_a_release_leaves_crd_jobs_and_certificate_alone(alone: Helm) -> None:
    alone("install", "first", str(CHART), "--create-namespace")
    job = {
        "apiVersion": "disttrain.dev/v1alpha1",
        "kind": "DistTrainJob",
        "metadata": {"name": "kept"},
        "spec": {"image": "x", "command": ["x"]},
    }
    uid = call(alone.kubeconfig, "POST", JOBS, body=job)["metadata"]["uid"]
    certificate = alone.secret("first-disttrain-tls")

    without_schema = {
        "spec": {
            "versions": [
                {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
            ]
        }
    }
    call(alone.kubeconfig, "PATCH", CRD, body=without_schema, content_type="application/merge-patch+json")
    alone("upgrade", "first", str(CHART), "--force-conflicts")
    schema = call(alone.kubeconfig, "GET", CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert "workers" in schema["properties"]["spec"]["properties"], "an upgrade upgrades the CRD"
    assert alone.secret("first-disttrain-tls") == certificate, (
        "an upgrade keeps the certificate, and so the agents' trust"
    )

    alone("uninstall", "first")
    assert call(alone.kubeconfig, "GET", f"{JOBS}/kept")["metadata"]["uid"] == uid, "an uninstall leaves CRD and jobs"

    assert "invalid ownership metadata" in alone("install", "second", str(CHART), fails=True)
    alone("install", "second", str(CHART), "--take-ownership")
    assert call(alone.kubeconfig, "GET", f"{JOBS}/kept")["metadata"]["uid"] == uid


@pytest.mark.server
def test_the_api_server_takes_every_object_of_the_chart(alone: Helm) -> None:
    for values in ("replicaCount=3", "watchNamespaces={default}", "tls.existingSecret=x", "runAsUser=null"):
        alone(
            "install",
            "tried",
            str(CHART),
            "--create-namespace",
            "--set",
            f"crds.enabled=false,{values}",
            "--dry-run=server",
        )


@pytest.mark.cluster
def test_a_namespaced_operator_becomes_ready_and_passes_its_own_test(helm: Path, kubeconfig: Path) -> None:
    run = Helm(helm, kubeconfig, f"release-{uuid.uuid4().hex[:6]}")
    repository, _, tag = image("operator", environment()).rpartition(":")
    beside = (
        f"image.repository={repository},image.tag={tag},crds.enabled=false,rbac.personas.create=false,replicaCount=1"
    )
    values = ("--set", beside, "--set", f"watchNamespaces={{{run.namespace}}}")
    try:
        run("install", "mine", str(CHART), "--create-namespace", *values, "--wait", "--timeout", "120s")
        said = run("test", "mine", "--logs", "--timeout", "150s")
        assert said.count("ok   ") == 3, said
    finally:
        run("uninstall", "mine")
        call(kubeconfig, "DELETE", f"/api/v1/namespaces/{run.namespace}")
