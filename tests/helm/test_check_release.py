"""The script that `helm test` runs, against servers that behave well and badly."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.helm.conftest import CHART

Serve = Callable[[dict[str, tuple[int, Any]]], Any]


@contextmanager
def server(answers: dict[str, tuple[int, Any]], certificate: Path | None = None) -> Iterator[str]:
    """An HTTP(S) server that knows some paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, None))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        found.socket = context.wrap_socket(found.socket, server_side=True)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"{'https' if certificate else 'http'}://127.0.0.1:{found.server_port}"
    found.shutdown()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, its own CA, with the key in the same file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)  # noqa: TID251
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = built.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "pair.pem"
    path.write_bytes(pem)
    return path


def check(
    tmp_path: Path,
    certificate: Path,
    ready: int = 200,
    stream: int = 401,
    resources: tuple[str, ...] = ("disttrainjobs",),
) -> tuple[int, str]:
    """Run the script; returns its exit status and what it printed."""
    (tmp_path / "token").write_text("t")
    api = {"/apis/disttrain.dev/v1alpha1": (200, {"resources": [{"name": name} for name in resources]})}
    with (
        server({"/readyz": (ready, None)}) as health,
        server({"/v1/stream": (stream, None)}, certificate) as tls,
        server(api) as kubernetes,
    ):
        host, port = kubernetes.removeprefix("http://").split(":")
        env = {
            "HEALTH_URL": health, "STREAM_URL": tls, "STREAM_CA": str(certificate), "PATIENCE_SECONDS": "0", "SERVICE_ACCOUNT_DIR": str(tmp_path),
            "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "KUBERNETES_SCHEME": "http", "PATH": os.environ["PATH"],
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", (CHART / "files" / "check_release.py").read_text()],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    return done.returncode, done.stdout + done.stderr


def test_a_healthy_release_passes(tmp_path: Path, certificate: Path) -> None:
    status, said = check(tmp_path, certificate)
    assert (status, said.count("ok  ")) == (0, 3), said


def test_the_standby_replica_may_answer_the_stream(tmp_path: Path, certificate: Path) -> None:
    assert check(tmp_path, certificate, stream=503)[0] == 0


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"ready": 503}, "FAIL operator_is_ready - HTTP Error 503"),
        ({"stream": 200}, "FAIL stream_answers - the stream let a caller without a token in"),
        ({"stream": 404}, "FAIL stream_answers - HTTP Error 404"),
        ({"resources": ()}, "FAIL api_is_served - disttrainjobs is not among []: install the CRD"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, certificate: Path, broken: dict[str, Any], says: str) -> None:
    status, said = check(tmp_path, certificate, **broken)
    assert status == 1
    assert says in said
    assert said.count("ok  ") == 2


def test_a_certificate_of_another_ca_is_not_accepted(tmp_path: Path, certificate: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    foreign = certificate.read_text().split("-----BEGIN PRIVATE")[0]
    (tmp_path / "foreign.pem").write_text(foreign)
    with server({"/v1/stream": (401, None)}, certificate) as tls:
        env = {
            "STREAM_URL": tls,
            "STREAM_CA": ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt",
            "PATH": os.environ["PATH"],
        }
        script = (CHART / "files" / "check_release.py").read_text().split("if __name__")[0] + "\nstream_answers()"
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=30, check=False
        )
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
