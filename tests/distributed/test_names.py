"""A rank's process carries the rank's name, also when it is given another place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract import env as contract
from disttrain_contract.env import RunConfig
from disttrain_contract.messages import Order, encode_order
from support.gloo_ranks import free_port, place

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
RUN = RunConfig(entrypoint="support.gloo_tasks:build", args=("--steps=4",))


@contextmanager
def worker(**environment: str) -> Iterator[tuple[Callable[[], str], socket.socket]]:
    """A rank that waits for peers who never come: what it is called, and the agent's end of its line."""
    ours, theirs = socket.socketpair()
    known = {
        contract.RUN: json.dumps(asdict(RUN)), contract.REPORT_FD: str(theirs.fileno()), contract.INCARNATION: "1",
        "DISTTRAIN_JOB": "story", "DISTTRAIN_JOB_UID": "uid-1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "PYTHONPATH": f"{ROOT / 'trainer_image'}:{ROOT / 'tests'}:{ROOT}",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "disttrain_runtime.worker"],
        env=dict(os.environ) | known | environment, pass_fds=(theirs.fileno(),),
    )  # fmt: skip
    theirs.close()
    try:
        yield lambda: Path(f"/proc/{process.pid}/comm").read_text().strip(), ours
    finally:
        process.kill()
        process.wait()
        ours.close()


def becomes(name: Callable[[], str], expected: str) -> None:
    end = time.monotonic() + 60
    while (found := name()) != expected:
        assert time.monotonic() < end, f"it is still called {found}"
        time.sleep(0.02)


def test_a_spare_is_called_so_until_it_is_given_a_place() -> None:
    with worker(**{contract.SPARE: "1"}) as (name, line):
        becomes(name, "spare")
        there = place(3, 4) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), contract.INCARNATION: "2"}
        line.sendall(encode_order(Order(incarnation=2, environment=there)))
        becomes(name, "rank-3")


def test_an_executed_rank_is_called_by_its_number() -> None:
    with worker(**place(1, 2)) as (name, _):
        becomes(name, "rank-1")
