"""A run that was killed and a run that was not end with the same bytes."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import Checkpoint, CheckpointProblem, Restore
from support.gloo_ranks import Door, Ranks, digests

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

WORLD, STEPS = 3, 24
TASK = RunConfig(
    entrypoint="support.gloo_tasks:build",
    args=(f"--steps={STEPS}",),
    checkpoint=CheckpointConfig(every_steps=5, asynchronous=False),
)


def finish(tmp_path: Path, job_dir: Path, incarnation: int = 1, world: int = WORLD, config: RunConfig = TASK) -> Ranks:
    with Ranks(
        tmp_path / f"logs-{job_dir.name}-{incarnation}", config, world, job_dir=job_dir, incarnation=incarnation
    ) as ranks:
        assert ranks.ended() == [0] * world, ranks.output(0)
        return ranks


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an uninterrupted run ends with."""
    folder = tmp_path_factory.mktemp("quiet")
    finish(folder, folder / "job")
    return digests(folder / "job", STEPS)


def interrupt(tmp_path: Path, number: int, at: int, config: RunConfig = TASK) -> Ranks:
    """Run until rank 1 stands before step `at`, send it a signal, and let the group end."""
    door = Door(tmp_path, at)
    config = replace(config, args=(*config.args, f"--doors={tmp_path}", f"--at=[{at}]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job") as ranks:
        door.arrive()
        ranks.kill(1, number)
        door.open()
        ranks.ended()
        return ranks


def test_killed_and_resumed_equals_never_killed_bit_for_bit(tmp_path: Path, quiet: dict[str, str]) -> None:
    interrupt(tmp_path, signal.SIGKILL, at=13)
    told = finish(tmp_path, tmp_path / "job", incarnation=2).told
    assert told.restores == [Restore(step=10, source="volume", digest=told.restores[0].digest)]
    assert digests(tmp_path / "job", STEPS) == quiet


def test_sigterm_loses_not_one_step_and_resumes_bit_for_bit(tmp_path: Path, quiet: dict[str, str]) -> None:
    """The rank that was told exits 143 without complaint; the others name it as the reason.

    What is done behind a step is agreed on before it, as long as steps are short; on a machine that halts for seconds, behind it.
    """
    ranks = interrupt(tmp_path, signal.SIGTERM, at=13)
    assert ranks.ended_codes == [143, 143, 143]
    saved = ranks.told.checkpoints[-1].step
    assert saved in (14, 15), "the step it was in is finished, and the one behind it"
    assert ranks.told.of(object, rank=1) == []
    assert "rank 1 was told to stop" in ranks.told.failure(2).message
    assert ranks.told.failure(0).failure_class == "Network"
    told = finish(tmp_path, tmp_path / "job", incarnation=2).told
    assert told.restores[0].step == saved
    assert digests(tmp_path / "job", STEPS) == quiet


def test_a_stop_at_a_committed_step_does_not_save_it_again(tmp_path: Path) -> None:
    ranks = interrupt(tmp_path, signal.SIGTERM, at=8)
    assert [c.step for c in ranks.told.checkpoints] in ([5, 10], [5, 9])


def test_a_damaged_checkpoint_is_skipped_with_a_reason_and_the_one_before_it_serves(
    tmp_path: Path, quiet: dict[str, str]
) -> None:
    interrupt(tmp_path, signal.SIGKILL, at=18)
    weights = tmp_path / "job" / "checkpoints" / "step-00000015" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 0x10
    weights.write_bytes(data)
    told = finish(tmp_path, tmp_path / "job", incarnation=2).told
    assert told.restores[0].step == 10
    assert told.restores[0].skipped == ("step 15: model.safetensors does not match its digest",)
    assert digests(tmp_path / "job", STEPS) == quiet


def test_a_checkpoint_loads_into_another_world_size(tmp_path: Path) -> None:
    saved = interrupt(tmp_path, signal.SIGTERM, at=13).told.checkpoints[-1].step
    assert finish(tmp_path, tmp_path / "job", incarnation=2, world=2).told.restores[0].step == saved
    assert set(digests(tmp_path / "job", STEPS)) == {"structure.json", "model.safetensors", "optimizer.safetensors"}


def test_a_finished_job_applied_again_only_reports(tmp_path: Path) -> None:
    finish(tmp_path, tmp_path / "job")
    told = finish(tmp_path, tmp_path / "job", incarnation=2).told
    assert (told.restores[0].step, told.progress.step, told.checkpoints) == (STEPS, STEPS, [])
    assert "accuracy" in told.progress.metrics


def test_a_zombie_of_an_older_incarnation_cannot_commit(tmp_path: Path, quiet: dict[str, str]) -> None:
    """Incarnation 1 is held up (a partition, say); 2 takes over and finishes; 1 wakes up and must not touch anything."""
    door = Door(tmp_path, at=7)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[7]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job") as zombie:
        door.arrive()
        finish(tmp_path, tmp_path / "job", incarnation=2)
        door.open()
        assert zombie.ended() == [1] * WORLD
        assert "was overtaken" in zombie.told.failure(0).message
        assert zombie.told.failure(0).failure_class == "Network"
    assert digests(tmp_path / "job", STEPS) == quiet


def test_asynchronous_saves_end_with_the_same_bits(tmp_path: Path, quiet: dict[str, str]) -> None:
    config = replace(TASK, checkpoint=CheckpointConfig(every_steps=1, keep=2, asynchronous=True))
    told = finish(tmp_path, tmp_path / "job", config=config).told
    assert not told.of(CheckpointProblem)
    steps = [c.step for c in told.of(Checkpoint)]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert len(list((tmp_path / "job" / "checkpoints").iterdir())) == 2
    assert digests(tmp_path / "job", STEPS) == quiet
