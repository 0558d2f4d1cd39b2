"""A real kube-apiserver with its etcd, on loopback, for one test run: no kubelet, no controllers, nobody else's operator.

Tests play the kubelet. The operator under test has exactly the rights of the Helm chart.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dev.access import environment
from dev.cluster.paths import current_paths

REPOSITORY = Path(__file__).resolve().parents[2]
OPERATOR = "operator"
START_SECONDS = 180


def missing() -> str | None:
    """Why there can be none."""
    lacking = [t for t in ("etcd", "kube-apiserver", "kubectl", "helm") if not (current_paths().bin / t).exists()]
    folder = current_paths().bin
    return (
        f"no {', '.join(lacking)} in {folder}: `make cluster-up` builds them for a cluster of ours" if lacking else None
    )


def needed() -> None:
    """Only with our own cluster its servers are built. Elsewhere the test is skipped; here their absence is a failure."""
    if (reason := missing()) is None:
        return
    if environment()["KUBECONFIG"] != str(current_paths().kubeconfig):
        pytest.skip(reason)
    pytest.fail(reason, pytrace=False)


class Part:
    """One of its two processes, which a story may disturb."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command, self.log = command, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Nothing of it is kept: no need to be gentle."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)


@dataclass(frozen=True)
class ApiServer:
    """Where it is and how to get in."""

    folder: Path
    port: int
    etcd: Part
    api: Part

    @property
    def data(self) -> Path:
        """All that it knows, while etcd does not run."""
        return self.folder / "etcd"

    def ready(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while "ok" not in self.kubectl("get", "--raw", "/readyz", check=False):
            if self.etcd.ended or self.api.ended or time.monotonic() > deadline:
                tail = self.api.log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"the API server did not start: {tail}")
            time.sleep(0.3)

    def kubeconfig(self, user: str) -> Path:
        """For `admin`, or for `operator` with the chart's rights."""
        file = self.folder / f"{user}.kubeconfig"
        cluster = {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": f"{user}-token"}}],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(config))
        return file

    def kubectl(self, *args: str, text: str | None = None, check: bool = True) -> str:
        """As admin."""
        command = [str(current_paths().bin / "kubectl"), "--kubeconfig", str(self.kubeconfig("admin")), *args]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(args)}: {done.stderr}")
        return done.stdout + (done.stderr if not check else "")

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(objects))


@contextmanager
def running(folder: Path) -> Iterator[ApiServer]:
    """Started, with the CRD and the chart's rights in it; ended afterwards."""
    with bare(folder) as server:
        _prepare(server)
        yield server


@contextmanager
def bare(folder: Path) -> Iterator[ApiServer]:
    """Started, with nothing of ours in it; ended afterwards."""
    etcd, peer, port = _free_ports(3)
    server = ApiServer(
        folder, port, Part(_etcd(folder, etcd, peer), folder / "etcd.log"), Part(_apiserver(folder, etcd, port), folder / "apiserver.log")
    )  # fmt: skip
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    (folder / "sa.key").write_bytes(pem)
    (folder / "tokens").write_text(
        f'admin-token,admin,admin,"system:masters"\n{OPERATOR}-token,{OPERATOR},{OPERATOR}\n'
    )
    try:
        server.etcd.start()
        server.api.start()
        server.ready()
        yield server
    finally:
        server.api.kill()
        server.etcd.kill()


def _etcd(folder: Path, port: int, peer: int) -> list[str]:
    url, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        str(current_paths().bin / "etcd"), f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}", f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}", "--unsafe-no-fsync", "--log-level=error",
    ]  # fmt: skip


def _apiserver(folder: Path, etcd: int, port: int) -> list[str]:
    return [
        str(current_paths().bin / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}",
        "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1",  # nobody asks for it; without a route it finds none
        f"--cert-dir={folder / 'certificates'}", f"--token-auth-file={folder / 'tokens'}",
        "--authorization-mode=RBAC", "--service-account-issuer=https://localhost", "--endpoint-reconciler-type=none",
        f"--service-account-signing-key-file={folder / 'sa.key'}", f"--service-account-key-file={folder / 'sa.key'}",
        "--service-cluster-ip-range=198.19.0.0/24", "--profiling=false",
        "--disable-admission-plugins=StorageObjectInUseProtection",  # no controller takes its finalizer off
    ]  # fmt: skip


def _prepare(server: ApiServer) -> None:
    with_crds(server)
    server.kubectl("create", "namespace", "disttrain-system")
    team(server)
    server.apply(*rights())


def with_crds(server: ApiServer) -> None:
    """Ours, established."""
    server.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "crds"))
    deadline = time.monotonic() + START_SECONDS
    wait = ("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    while "condition met" not in (
        said := server.kubectl(*wait, check=False)
    ):  # an error while there is no condition at all
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def team(server: ApiServer) -> None:
    """The namespace of the jobs."""
    server.kubectl("create", "namespace", "team")
    server.kubectl("create", "serviceaccount", "default", "-n", "team")  # no controller makes it
    server.kubectl("label", "namespace", "team", "pod-security.kubernetes.io/enforce=restricted")


def rights() -> list[dict[str, Any]]:
    """The chart's, for the user that the operator is here."""
    chart = subprocess.run(
        [
            str(current_paths().bin / "helm"), "template", "disttrain", str(REPOSITORY / "helm/disttrain"),
            "--namespace", "disttrain-system", "--show-only", "templates/rbac.yaml",
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    objects = [o for o in yaml.safe_load_all(chart.stdout) if o]
    for found in objects:
        if found["kind"].endswith("Binding"):
            found["subjects"] = [{"kind": "User", "name": OPERATOR, "apiGroup": "rbac.authorization.k8s.io"}]
    return objects


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
