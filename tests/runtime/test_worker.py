"""The worker's own exit codes, where no group is needed."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

pytest.importorskip("torch")

from disttrain_contract import env as contract
from disttrain_contract.env import RunConfig
from disttrain_contract.messages import Failure, Order, decode_rank_message, encode_order
from disttrain_contract.strategy import StrategyConfig, Synchronization
from disttrain_runtime.config import from_env
from disttrain_runtime.connections import Connections
from disttrain_runtime.pulse import Pulse
from disttrain_runtime.worker import Worker, main

pytestmark = pytest.mark.torch


def test_a_run_that_this_image_does_not_understand_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {contract.RUN: json.dumps({"entrypoint": "a:b", "newer_field": 1})}) == 64
    assert "newer_field" in capsys.readouterr().err


def test_a_contradiction_in_the_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--entrypoint", "a:b", "--every-steps", "5"], {}) == 64
    assert "there is no volume to keep them on" in capsys.readouterr().err


def heard(run: RunConfig, tmp_path: Path) -> tuple[int, list[Any]]:
    """Exit code and messages of a rank that does not get as far as a group."""
    reader, writer = os.pipe()
    code = main(
        [], {contract.RUN: json.dumps(asdict(run)), contract.REPORT_FD: str(writer), contract.JOB_DIR: str(tmp_path)}
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        return code, [decode_rank_message(line)[1] for line in lines]


def test_an_entry_point_that_cannot_be_imported_is_told_to_the_agent_and_never_retried(tmp_path: Path) -> None:
    code, (failure,) = heard(RunConfig(entrypoint="no_such_package.task:build"), tmp_path)
    assert code == 64
    assert isinstance(failure, Failure)
    assert (failure.failure_class, failure.exit_code) == ("EntrypointError", 64)
    assert failure.message.startswith("entrypoint 'no_such_package.task:build': there is no module 'no_such_package'")
    assert failure.traceback == ""


def test_a_missing_data_file_is_the_codes_fault_and_has_a_traceback(tmp_path: Path) -> None:
    code, (failure,) = heard(RunConfig(entrypoint="support.gloo_tasks:build_without_data"), tmp_path)
    assert (code, failure.failure_class) == (1, "CodeError")
    assert failure.message == "FileNotFoundError: /data/train.bin is not there"
    assert "in build_without_data" in failure.traceback


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    code, (failure,) = heard(
        RunConfig(
            entrypoint="support.gloo_tasks:build",
            strategy=StrategyConfig(synchronization=Synchronization(method="telepathy")),
        ),
        tmp_path,
    )
    assert (code, failure.failure_class) == (64, "EntrypointError")
    assert "'telepathy' is unknown to this image; it has: allReduce" in failure.message


RUN = json.dumps(asdict(RunConfig(entrypoint="a:b")))


class Counted(Connections):
    """Connections of a group that only count how often they are cut."""

    cuts = 0

    @override
    def cut(self) -> None:
        self.cuts += 1


def test_an_order_that_is_heard_while_the_next_group_begins_cuts_only_the_old_one() -> None:
    """The listening thread has seen that the old group is over; before it acts, the rank's own thread is in the next one."""
    worker = Worker(from_env({contract.RUN: RUN}), Pulse.from_env({}))
    old, new = Counted(), Counted()
    worker._connections = old
    moved = threading.Thread(target=worker._connect, args=(new,))

    def over() -> bool:
        moved.start()
        moved.join(0.2)
        return True

    worker._is_over = over  # type: ignore[method-assign]
    worker._heard()
    moved.join(20)
    assert (old.cuts, new.cuts, worker._connections is new) == (1, 0, True)


def test_an_order_that_lies_there_before_the_rank_is_ready_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its group was over before it began. The listening thread must outlive that: the next order gives a place."""
    real = threading.Thread.start

    def quick(thread: threading.Thread) -> None:
        real(thread)
        thread.join(0.2)  # it is at work before whoever started it goes on

    monkeypatch.setattr(threading.Thread, "start", quick)
    ours, theirs = socket.socketpair()
    ours.sendall(encode_order(Order(incarnation=2)))
    config = from_env({contract.RUN: RUN, contract.INCARNATION: "1", contract.REPORT_FD: str(theirs.fileno())})
    worker = Worker(config, Pulse.from_env({}))
    assert worker._is_replaced()
    ours.sendall(encode_order(Order(incarnation=2, environment={"RANK": "0"})))
    assert worker.orders is not None
    end = time.monotonic() + 20
    order = worker.orders.wait(1, lambda: time.monotonic() > end)
    assert order is not None and order.environment == {"RANK": "0"}
    ours.close()
    theirs.close()
