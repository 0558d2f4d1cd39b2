"""The address of a group's first pod has gone to a pod of another job, and one rank still calls there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Holding
from support.gloo_ranks import DEADLINE, Ranks, digests, free_port, place

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

STEPS = 12
TASK = RunConfig(
    entrypoint="support.gloo_tasks:build",
    args=(f"--steps={STEPS}",),
    checkpoint=CheckpointConfig(every_steps=100, asynchronous=False),
)


def test_a_rank_that_calls_at_an_address_of_another_job_joins_nobody_and_harms_nobody(tmp_path: Path) -> None:
    port = free_port()
    ours = {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "job-a"}
    theirs = ours | {"TORCHELASTIC_RUN_ID": "job-b"}
    with (
        Ranks(tmp_path / "a", TASK, 0, job_dir=tmp_path / "stray", regroups=True, env=ours) as stray,
        Ranks(tmp_path / "b", TASK, 0, job_dir=tmp_path / "job", env=theirs) as other,
    ):
        begin(stray, 1)
        begin(other, 0)
        connected(port)
        begin(other, 1)
        assert other.ended() == [0, 0], other.output(0)
        stray.wait_for(lambda rank, body: isinstance(body, Holding))
        (held,) = stray.told.of(Holding)
        assert held.failure.failure_class is FailureClass.NETWORK and not stray.told.restores, "it was in no group"
    with Ranks(tmp_path / "quiet", TASK, 2, job_dir=tmp_path / "quiet-job") as quiet:
        assert quiet.ended() == [0, 0]
    assert digests(tmp_path / "job", STEPS) == digests(tmp_path / "quiet-job", STEPS), "to the last bit"


def begin(group: Ranks, rank: int) -> None:
    """One rank of two."""
    group.processes.append(group._start(rank, group._env | place(rank, 2)))


def connected(port: int) -> None:
    """Wait until somebody is connected to that port."""
    end, ours, established = time.monotonic() + DEADLINE, f":{port:04X}", "01"
    while True:
        tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table]
        there = [row for row in rows if row[1].endswith(ours) and row[3] == established]
        if len(there) >= 2:  # rank 0 is its own client, too
            return
        assert time.monotonic() < end, "nobody came"
        time.sleep(0.01)
