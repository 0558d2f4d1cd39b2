"""The volume is lost with everything on it; a copy far away goes on from the same bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import RemoteCopy
from support.gloo_ranks import Ranks, digests

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

WORLD, STEPS = 2, 12


def config(steps: int, remote: str | None) -> RunConfig:
    checkpoint = CheckpointConfig(every_steps=4, asynchronous=False, remote=remote)
    return RunConfig(entrypoint="support.gloo_tasks:build", args=(f"--steps={steps}",), checkpoint=checkpoint)


def run(logs: Path, job_dir: Path, run: RunConfig, codes: list[int], incarnation: int = 1) -> Ranks:
    with Ranks(logs / f"{job_dir.name}-{incarnation}", run, WORLD, job_dir=job_dir, incarnation=incarnation) as ranks:
        assert ranks.ended() == codes, ranks.output(0)
        return ranks


def test_an_empty_volume_goes_on_from_the_second_tier_bit_for_bit(tmp_path: Path) -> None:
    first = run(tmp_path / "a", tmp_path / "job", config(STEPS, f"file://{tmp_path}/tier"), [0, 0])
    copies = first.told.of(RemoteCopy)
    assert (copies[-1].step, copies[-1].reason) == (STEPS, ""), "the end of training waits for its last copy"
    assert copies[-1].digest == first.told.checkpoints[-1].digest
    quiet = digests(tmp_path / "job", STEPS)
    shutil.rmtree(tmp_path / "job")
    (last,) = (tmp_path / "tier" / "checkpoints").glob(f"step-{STEPS:08d}-*")
    shutil.rmtree(last)
    told = run(tmp_path / "a", tmp_path / "job", config(STEPS, f"file://{tmp_path}/tier"), [0, 0], incarnation=2).told
    (start,) = told.restores
    assert (start.step, start.source, start.digest) == (8, "remote", first.told.checkpoints[1].digest)
    assert digests(tmp_path / "job", STEPS) == quiet


def test_a_store_that_fails_while_training_is_told_and_training_ends_well(tmp_path: Path) -> None:
    """A file stands where a folder should be; the volume has what is needed to start."""
    remote = tmp_path / "tier"
    remote.mkdir()
    (remote / "checkpoints").write_text("in the way")
    told = run(tmp_path / "a", tmp_path / "job", config(STEPS, None), [0, 0]).told
    told = run(tmp_path / "b", tmp_path / "job", config(STEPS + 4, f"file://{remote}"), [0, 0], incarnation=2).told
    assert told.restores[0].source == "volume"
    assert {c.reason for c in told.of(RemoteCopy)} == {"RemoteFailed"}
    assert told.checkpoints[-1].step == STEPS + 4


def test_nothing_starts_at_step_0_while_the_store_cannot_say_whether_it_holds_more(tmp_path: Path) -> None:
    (tmp_path / "tier").write_text("not a folder")
    told = run(tmp_path / "a", tmp_path / "job", config(STEPS, f"file://{tmp_path}/tier"), [74, 1]).told
    assert told.failure(0).failure_class == "Storage"
    assert "the remote one cannot be asked" in told.failure(0).message
