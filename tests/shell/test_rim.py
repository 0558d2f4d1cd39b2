"""The small parts at the rim: health, metrics, logs, certificates."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from disttrain_operator.shell import leader, logs
from disttrain_operator.shell.health import HealthServer
from disttrain_operator.shell.kinds import LEASES
from disttrain_operator.shell.metrics import TABLE, Metrics
from disttrain_operator.shell.tls import Certificates
from support.fake_kube import FakeKube


async def test_a_probe_says_what_is_wrong() -> None:
    problem: str | None = None
    server = HealthServer(Metrics(), live={"queue": lambda: problem, "lease": lambda: None}, ready={})
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        problem = "a job has waited for 301 s"
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.text()) == (503, "queue: a job has waited for 301 s\n")
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        async with session.get("/metrics") as answer:
            assert "disttrain_workqueue_depth" in await answer.text()
    await server.stop()


async def test_while_the_loop_is_blocked_the_probe_gets_no_answer_and_the_leader_does_not_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a real call that does not give the loop back; the probe comes from outside, as the kubelet's does."""
    monkeypatch.setattr(leader, "RENEW_DEADLINE", 0.5)
    monkeypatch.setattr(leader, "RETRY_SECONDS", 0.05)
    kube = FakeKube()
    leading = leader.Leader(kube, namespace="team", name="lease", identity="a")
    server = HealthServer(Metrics(), live={"lease": leading.problem}, ready={})
    port = await server.start("127.0.0.1", 0)
    await leading.acquire()
    holding = asyncio.create_task(leading.hold())
    assert await asyncio.to_thread(probe, port, 5.0) == "ok\n" and leading()
    with ThreadPoolExecutor(1) as kubelet:
        probed = kubelet.submit(probe, port, 0.3)
        time.sleep(0.7)
        assert probed.result() == "timed out"
        assert not leading(), "known by the clock, before anything else has run"
        kube.change(LEASES, "team", "lease", lambda found: found["spec"].update(holderIdentity="b"))
    with pytest.raises(leader.LeaseLost):
        await asyncio.wait_for(holding, 5)
    assert await asyncio.to_thread(probe, port, 5.0) == "ok\n"
    await server.stop()


def probe(port: int, seconds: float) -> str:
    """As the kubelet does it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=seconds) as answer:
            return str(answer.read().decode())
    except TimeoutError:
        return "timed out"


def test_every_metric_of_the_table_can_be_scraped() -> None:
    text = Metrics().text().decode()
    for name, *_ in TABLE:
        assert f"# HELP disttrain_{name}" in text


def test_no_metric_is_labelled_by_what_has_no_bound() -> None:
    allowed = {"result", "verb", "resource", "code", "state", "reason", "node"}
    assert {label for *_, labels in TABLE for label in labels} <= allowed


def test_gauges_are_read_when_they_are_asked_for_and_old_states_vanish() -> None:
    metrics, states = Metrics(), {"Running": 2}
    metrics.on_scrape(lambda: metrics.set_all("jobs", states))
    assert 'disttrain_jobs{state="Running"} 2.0' in metrics.text().decode()
    states.clear()
    states["Failed"] = 1
    text = metrics.text().decode()
    assert 'state="Failed"' in text and 'state="Running"' not in text


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger whose records are formatted as the operator's are."""
    made = logging.getLogger("disttrain_operator.test")
    yield made
    made.handlers.clear()


def captured(logger: logging.Logger, formatter: logging.Formatter) -> list[str]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    return lines


def test_a_json_line_names_the_job(logger: logging.Logger) -> None:
    lines = captured(logger, logs.JsonFormatter())
    with logs.about(namespace="team", job="mnist"):
        logs.add(incarnation=2)
        logger.warning("restart %s", "soon")
    logger.warning("after")
    first, second = (json.loads(line) for line in lines)
    assert (first["namespace"], first["job"], first["incarnation"]) == ("team", "mnist", 2)
    assert (first["level"], first["message"]) == ("warning", "restart soon") and first["time"].endswith("Z")
    assert "job" not in second


def test_an_exception_stays_on_one_json_line(logger: logging.Logger) -> None:
    lines = captured(logger, logs.JsonFormatter())
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")
    assert len(lines) == 1 and "ValueError: bad" in json.loads(lines[0])["exception"]


def test_a_text_line_names_the_job_too(logger: logging.Logger) -> None:
    lines = captured(logger, logs.TextFormatter())
    with logs.about(namespace="team", job="mnist"):
        logger.warning("restart")
    assert lines[0].endswith("warning [team/mnist] restart")


def write_certificate(directory: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime(2030, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in {"tls.crt": pem, "ca.crt": pem, "tls.key": private}.items():
        (directory / file).write_bytes(content)


def older(directory: Path) -> None:
    """File times may be as coarse as the kernel's tick."""
    for file in directory.iterdir():
        os.utime(file, ns=(1, 1))


def test_a_renewed_certificate_is_loaded_and_given_to_new_pods(tmp_path: Path) -> None:
    write_certificate(tmp_path, "old")
    older(tmp_path)
    found = Certificates(tmp_path)
    before = found.ca
    assert not found.refresh(), "nothing new"
    write_certificate(tmp_path, "new")
    assert found.refresh() and found.ca != before


def test_half_a_renewal_is_not_used(tmp_path: Path) -> None:
    write_certificate(tmp_path, "old")
    older(tmp_path)
    found = Certificates(tmp_path)
    (tmp_path / "tls.key").write_text("not yet")
    assert not found.refresh()
    write_certificate(tmp_path, "new")
    assert found.refresh()


def test_a_missing_certificate_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Certificates(tmp_path)
    write_certificate(tmp_path, "x")
    (tmp_path / "tls.crt").write_text("junk")
    with pytest.raises(ssl.SSLError):
        Certificates(tmp_path)
