"""A kube-apiserver and an etcd of a test's own: what Helm does to a CRD must not happen to the cluster under test."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from disttrain.sdk.connection import connect
from disttrain.sdk.errors import DisttrainError
from disttrain.sdk.transport import Request

BINARIES = Path("~/.cache/disttrain/bin").expanduser()
"""Where dev/cluster puts what it has built."""
START_SECONDS = 60


def available() -> bool:
    """Not so when the cluster under test is not ours."""
    return all((BINARIES / name).exists() for name in ("etcd", "kube-apiserver"))


def call(kubeconfig: Path, method: str, path: str, **request: Any) -> Any:
    """The API server's answer."""
    return connect(kubeconfig)[0].send(Request(method=method, path=path, **request)).body


@contextmanager
def api_server(folder: Path) -> Iterator[Path]:
    """Its kubeconfig; on loopback, with a token for everything."""
    (folder / "tokens.csv").write_text("token,admin,1,system:masters\n")
    key = rsa.generate_private_key(65537, 2048)
    pem = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    (folder / "key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *pem))
    client, peer, secure = (free_port() for _ in range(3))
    etcd = [
        "etcd", f"--data-dir={folder}/etcd", f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}", "--unsafe-no-fsync",
    ]  # fmt: skip
    api = [
        "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1", f"--secure-port={secure}",
        f"--cert-dir={folder}/certs", f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
        "--service-account-issuer=https://test", f"--service-account-signing-key-file={folder}/key",
        f"--service-account-key-file={folder}/key", "--service-cluster-ip-range=198.18.0.0/24", "--disable-admission-plugins=ServiceAccount",
    ]  # fmt: skip
    with process(etcd, folder), process(api, folder):
        path = kubeconfig(folder / "kubeconfig", secure)
        wait_until_ready(path)
        yield path


@contextmanager
def process(command: list[str], folder: Path) -> Iterator[None]:
    """Runs until the block ends."""
    with (folder / f"{command[0]}.log").open("wb") as log:
        running = subprocess.Popen([BINARIES / command[0], *command[1:]], stdout=log, stderr=log)
        try:
            yield
        finally:
            running.kill()
            running.wait()


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kubeconfig(path: Path, port: int) -> Path:
    """For the admin."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": "token"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    return path


def wait_until_ready(path: Path) -> None:
    """RBAC's own roles come last."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            call(path, "GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/view")
            return
        except DisttrainError:
            assert time.monotonic() < end, f"no API server: see {path.parent}/kube-apiserver.log"
            time.sleep(0.3)
