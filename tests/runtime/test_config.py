"""A rank's configuration: from the agent's environment, or from a person's command line; checked either way."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from disttrain_contract import env as contract
from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig
from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.config import Identity, Place, WorkerConfig, from_command_line, from_env
from disttrain_runtime.errors import EntrypointError

RUN = RunConfig(entrypoint="digits.task:build", checkpoint=CheckpointConfig(every_steps=10))


def agent_env(**more: str) -> dict[str, str]:
    return {
        contract.RUN: json.dumps(asdict(RUN)), contract.INCARNATION: "4", contract.JOB_DIR: "/checkpoints/mnist",
        "DISTTRAIN_JOB": "mnist", "DISTTRAIN_JOB_UID": "u-1", "RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", **more,
    }  # fmt: skip


def test_what_the_agent_says_is_what_the_rank_gets() -> None:
    config = from_env(agent_env(**{contract.REPORT_FD: "9"}))
    assert config.place == Place(rank=2, world_size=3)
    assert config.identity == Identity(job="mnist", job_uid="u-1", incarnation=4)
    assert (config.run, config.job_dir, config.report_fd) == (RUN, Path("/checkpoints/mnist"), 9)


def test_a_newcomer_needs_only_an_entry_point() -> None:
    config = from_command_line(["--entrypoint", "digits.task:build", "--", "--epochs", "3"], {})
    assert (config.place, config.job_dir, config.run.args) == (Place(), None, ("--epochs", "3"))


def test_a_strategy_on_the_command_line_is_in_the_words_of_the_contract() -> None:
    said = '{"accumulate": 2, "synchronization": {"method": "allReduce"}}'
    config = from_command_line(["--entrypoint", "a:b", "--strategy", said], {})
    assert config.run.strategy == StrategyConfig(accumulate=2)


@pytest.mark.parametrize("said", ["accumulate", '{"accumulat": 2}', "[1]", '{"synchronization": 3}'])
def test_a_strategy_that_cannot_be_read_is_refused_with_an_example(said: str) -> None:
    with pytest.raises(EntrypointError, match="for example"):
        from_command_line(["--entrypoint", "a:b", "--strategy", said], {})


def test_under_torchrun_its_restarts_are_incarnations() -> None:
    env = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "TORCHELASTIC_RESTART_COUNT": "2",
        "TORCHELASTIC_RUN_ID": "r",
    }
    config = from_command_line(["--entrypoint", "a:b", "--checkpoints", "/tmp/x", "--every-steps", "5"], env)
    assert config.identity == Identity(job="local", job_uid="r", incarnation=3)
    assert config.place == Place(rank=1, world_size=2, local_rank=1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"run": RunConfig(command=("python",))}, "no entrypoint"),
        ({"place": Place(rank=3, world_size=3)}, "RANK=3 does not fit WORLD_SIZE=3"),
        ({"identity": Identity(incarnation=0)}, "incarnation must be at least 1"),
        (
            {"run": RunConfig(entrypoint="a:b", checkpoint=CheckpointConfig(every_steps=1, every_seconds=1))},
            "exclude each other",
        ),
        (
            {"run": RunConfig(entrypoint="a:b", checkpoint=CheckpointConfig(keep=0))},
            "checkpoint.keep must be greater than 0",
        ),
        (
            {"run": RunConfig(entrypoint="a:b", evaluation=EvaluationConfig(every_steps=-1))},
            "evaluation.everySteps must be greater",
        ),
        ({"job_dir": None}, "there is no volume to keep them on"),
    ],
)
def test_a_contradiction_is_named(changes: dict[str, object], complaint: str) -> None:
    good: dict[str, object] = {
        "place": Place(),
        "identity": Identity(),
        "run": RUN,
        "job_dir": Path("/checkpoints/mnist"),
    }
    with pytest.raises(EntrypointError, match=complaint):
        WorkerConfig(**(good | changes))  # type: ignore[arg-type]
