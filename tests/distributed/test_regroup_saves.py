"""The group forms anew while a checkpoint is being written."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.distributed.test_regroup import STEPS, TASK, WORLD, holding, quiet

from disttrain_contract.env import CheckpointConfig
from disttrain_contract.messages import CheckpointProblem, Restore
from support.gloo_ranks import Door, Ranks, digests, writer_of, writers_of

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

SAVING = replace(TASK, checkpoint=CheckpointConfig(every_steps=10, asynchronous=True))


def test_a_save_under_way_outlives_the_group_that_began_it(tmp_path: Path) -> None:
    """The disk takes its time over step 10; rank 1 dies; the group goes on without waiting; step 10 is committed after all."""
    before, dying = Door(tmp_path, 7), Door(tmp_path, 13)
    config = replace(SAVING, args=(*SAVING.args, f"--doors={tmp_path}", "--at=[7,13]", "--rank=1"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True) as ranks:
        before.arrive()
        writer = writer_of(ranks.processes[0].pid)
        os.kill(writer, signal.SIGSTOP)
        before.open()
        dying.arrive()
        ranks.kill(1)
        holding(ranks, 0, 2)
        ranks.regroup(incarnation=2)
        ranks.wait_for(lambda _, body: isinstance(body, Restore) and body.source == "survivor")
        assert ranks.told.checkpoints == []
        os.kill(writer, signal.SIGCONT)
        before.arrive()  # the replacement counts its own steps
        assert writers_of(ranks.processes[0].pid) == [writer], "the leader kept its process"
        before.open()
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert ranks.told.of(CheckpointProblem) == []
    assert [(c.step, c.incarnation) for c in ranks.told.checkpoints] == [(10, 1), (20, 2), (24, 2)]
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path, SAVING)


def test_the_next_leader_saves_on_where_the_dead_one_was_saving(tmp_path: Path) -> None:
    """Rank 0 dies with its save of step 10 unfinished, and its writer with it; nothing is left of either."""
    before, dying = Door(tmp_path, 7), Door(tmp_path, 13)
    config = replace(SAVING, args=(*SAVING.args, "--norm=false", f"--doors={tmp_path}", "--at=[7,13]", "--rank=0"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True) as ranks:
        before.arrive()
        writer = writer_of(ranks.processes[0].pid)
        os.kill(writer, signal.SIGSTOP)
        before.open()
        dying.arrive()
        ranks.kill(0)
        holding(ranks, 1, 2)
        ranks.regroup(incarnation=2)
        before.arrive()
        assert not Path(f"/proc/{writer}/cmdline").exists() or not Path(f"/proc/{writer}/cmdline").read_bytes()
        before.open()
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert [(c.step, c.incarnation) for c in ranks.told.checkpoints] == [(20, 2), (24, 2)]
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path, replace(SAVING, args=(*SAVING.args, "--norm=false")))
