"""The worker's own exit codes, where no group is needed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from disttrain_contract import env as contract
from disttrain_contract.env import RunConfig
from disttrain_contract.messages import Failure, decode_rank_message
from disttrain_contract.strategy import StrategyConfig, Synchronization
from disttrain_runtime.worker import main

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
