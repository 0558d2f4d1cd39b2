"""Evaluations in real groups: written down once, the best one kept, the early end; whoever dies."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig
from disttrain_contract.messages import Restore
from support.gloo_ranks import Door, Ranks

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]

WORLD, STEPS = 2, 24
TASK = RunConfig(
    entrypoint="support.gloo_tasks:build",
    args=(f"--steps={STEPS}", "--norm=false"),
    checkpoint=CheckpointConfig(every_steps=5, keep=1, asynchronous=False),
    evaluation=EvaluationConfig(every_steps=4),
)


def run(folder: Path, job_dir: Path, config: RunConfig = TASK, incarnation: int = 1) -> Ranks:
    logs = folder / f"logs-{job_dir.name}-{incarnation}"
    with Ranks(logs, config, WORLD, job_dir=job_dir, incarnation=incarnation) as ranks:
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
        return ranks


def lines(job_dir: Path) -> list[dict[str, Any]]:
    """All but the time of day."""
    found = [json.loads(line) for line in (job_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in found]


def steps_on_volume(job_dir: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in (job_dir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("quiet")
    run(folder, folder / "job")
    return lines(folder / "job")


def test_every_step_that_is_due_has_its_lines(quiet: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in quiet if "loss" in line] == list(range(1, STEPS + 1)), "a short run: every step"
    evaluations = [line for line in quiet if "evaluation" in line]
    assert [line["step"] for line in evaluations] == [4, 8, 12, 16, 20, 24]
    assert set(evaluations[0]["evaluation"]) == {"evalLoss", "accuracy"}


@pytest.mark.parametrize("at", [12, 14])
def test_after_a_restart_from_the_volume_the_file_is_that_of_a_quiet_run(
    tmp_path: Path, quiet: list[dict[str, Any]], at: int
) -> None:
    """At 12 a rank dies when the step before was evaluated; the volume holds step 10."""
    door = Door(tmp_path, at)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", f"--at=[{at}]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job") as ranks:
        door.arrive()
        ranks.kill(1)
        door.open()
        ranks.ended()
    assert lines(tmp_path / "job")[-1]["step"] == at
    told = run(tmp_path, tmp_path / "job", incarnation=2).told
    assert told.restores[0].step == 10
    assert lines(tmp_path / "job") == quiet


def test_an_evaluation_that_was_not_written_before_the_end_is_made_again(
    tmp_path: Path, quiet: list[dict[str, Any]]
) -> None:
    """The checkpoint of step 20 is there, its evaluation is not: as when the machine stops between the two."""
    door = Door(tmp_path, 21)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[21]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job") as ranks:
        door.arrive()
        ranks.kill(1)
        door.open()
        ranks.ended()
    file = tmp_path / "job" / "metrics.jsonl"
    kept = [
        line
        for line in file.read_text().splitlines(keepends=True)
        if not ('"evaluation"' in line and '"step": 20' in line)
    ]
    file.write_text("".join(kept))
    assert run(tmp_path, tmp_path / "job", incarnation=2).told.restores[0].step == 20
    assert lines(tmp_path / "job") == quiet


def test_when_the_rank_that_writes_dies_the_next_one_goes_on_where_it_stopped(
    tmp_path: Path, quiet: list[dict[str, Any]]
) -> None:
    door = Door(tmp_path, 13)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[13]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True) as ranks:
        door.arrive()
        ranks.kill(0)
        door.open()
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert ranks.told.of(Restore)[-1].source == "survivor"
    assert lines(tmp_path / "job") == quiet


def test_the_checkpoint_of_the_best_evaluation_stays_while_it_is_the_best(tmp_path: Path) -> None:
    """The learning rate is absurd, so the first evaluation remains the best: retention keeps 1 newest, and that one."""
    evaluation = EvaluationConfig(every_steps=4, metric="evalLoss")
    config = replace(
        TASK, entrypoint="support.gloo_tasks:build_worse", args=(f"--steps={STEPS}",), evaluation=evaluation
    )
    told = run(tmp_path, tmp_path / "job", config).told
    assert told.progress.best is not None
    assert told.progress.best.step == 4
    assert told.progress.best.value == lines_of_step(tmp_path / "job", 4)["evalLoss"]
    assert steps_on_volume(tmp_path / "job") == [4, STEPS]


def lines_of_step(job_dir: Path, step: int) -> dict[str, float]:
    (found,) = (line["evaluation"] for line in lines(job_dir) if line["step"] == step and "evaluation" in line)
    return dict(found)


def test_it_ends_well_when_it_gains_nothing_more_and_says_why(tmp_path: Path) -> None:
    evaluation = EvaluationConfig(every_steps=4, metric="evalLoss", patience=2)
    config = replace(
        TASK, entrypoint="support.gloo_tasks:build_worse", args=(f"--steps={STEPS}",), evaluation=evaluation
    )
    told = run(tmp_path, tmp_path / "job", config).told
    assert (told.progress.step, told.progress.total_steps) == (12, 12)
    assert told.progress.ended is not None
    assert told.progress.ended.reason == "EarlyStop"
    assert told.checkpoints[-1].step == 12, "the result is saved"
    again = run(tmp_path, tmp_path / "job", config, incarnation=2).told
    assert (again.progress.step, again.checkpoints) == (12, []), "applied again it is still over"
    assert again.progress.ended == told.progress.ended


def test_a_metric_that_the_task_does_not_have_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    config = replace(TASK, evaluation=EvaluationConfig(metric="bleu"))
    with Ranks(tmp_path / "logs", config, 1, job_dir=tmp_path / "job") as ranks:
        assert ranks.ended() == [64]
    assert "evaluation.metric is 'bleu', but the task has evalLoss, accuracy" in ranks.told.failure(0).message


def test_a_rank_that_is_told_to_stop_writes_no_end(tmp_path: Path) -> None:
    door = Door(tmp_path, 9)
    config = replace(TASK, args=(*TASK.args, f"--doors={tmp_path}", "--at=[9]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job") as ranks:
        door.arrive()
        ranks.kill(0, signal.SIGTERM)
        door.open()
        ranks.ended()
    assert ranks.told.progress.ended is None
