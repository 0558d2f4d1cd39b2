"""What one rank is told: who it is, what to run, where to keep state. Read once at the rim, checked when made."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from disttrain_contract import env as contract
from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig, run_from_json
from disttrain_contract.remote import SCHEMES, URL_PATTERN
from disttrain_contract.strategy import StrategyConfig, strategy_from_json
from disttrain_runtime.errors import EntrypointError

ALONE = "local"
"""Job name and uid of a run that no operator started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this process stands in its group, as torchrun says it."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    per_worker: int = 1
    """Ranks in this pod."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Place:
        """Without RANK: a group of one."""
        rank = int(env.get("RANK", "0"))
        return cls(
            rank=rank,
            world_size=int(env.get("WORLD_SIZE", "1")),
            local_rank=int(env.get("LOCAL_RANK", "0")),
            per_worker=int(env.get("LOCAL_WORLD_SIZE", "1")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """On whose behalf checkpoints are written. An incarnation with a lower number is fenced off."""

    job: str = ALONE
    job_uid: str = ALONE
    incarnation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One rank's whole configuration."""

    place: Place
    identity: Identity
    run: RunConfig
    job_dir: Path | None = None
    """None: no volume, no checkpoints."""
    report_fd: int | None = None
    """None: nobody listens; progress is printed."""
    spare: bool = False
    """Its place comes later, with an order."""

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise EntrypointError(f"the run's configuration: {complaint}")

    @property
    def entrypoint(self) -> str:
        """Never empty: checked when made."""
        return self.run.entrypoint or ""


def from_env(env: Mapping[str, str]) -> WorkerConfig:
    """The configuration that the agent hands to a rank."""
    job_dir, report_fd = env.get(contract.JOB_DIR), env.get(contract.REPORT_FD)
    return WorkerConfig(
        place=Place.from_env(env),
        identity=Identity(
            job=env.get(contract.PREFIX + "JOB", ALONE),
            job_uid=env.get(contract.PREFIX + "JOB_UID", ALONE),
            incarnation=int(env.get(contract.INCARNATION, "1")),
        ),
        run=run_from_json(env[contract.RUN]),
        job_dir=Path(job_dir) if job_dir else None,
        report_fd=int(report_fd) if report_fd else None,
        spare=contract.SPARE in env,
    )


def from_command_line(argv: Sequence[str], env: Mapping[str, str]) -> WorkerConfig:
    """The same for a person: `torchrun -m disttrain_runtime.worker --entrypoint digits.task:build -- --steps 50`."""
    given = _parser().parse_args(list(argv))
    arguments = tuple(given.arguments[1:] if given.arguments[:1] == ["--"] else given.arguments)
    return WorkerConfig(
        place=Place.from_env(env),
        identity=Identity(
            job_uid=env.get("TORCHELASTIC_RUN_ID", ALONE),
            incarnation=int(env.get("TORCHELASTIC_RESTART_COUNT", "0")) + 1,
        ),
        run=RunConfig(
            entrypoint=given.entrypoint,
            args=arguments,
            seed=given.seed,
            strategy=_strategy(given.strategy),
            checkpoint=CheckpointConfig(
                every_steps=given.every_steps,
                every_seconds=given.every_seconds,
                keep=given.keep,
                asynchronous=not given.sync,
                remote=given.remote,
            ),
            evaluation=EvaluationConfig(every_steps=given.evaluate_every),
        ),
        job_dir=given.checkpoints,
    )


def _strategy(text: str) -> StrategyConfig:
    try:
        return strategy_from_json(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise EntrypointError(
            f"--strategy {text}: {error}; it takes JSON in the words of disttrain_contract.strategy, "
            f'for example \'{{"accumulate": 2, "synchronization": {{"method": "allReduce"}}}}\''
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m disttrain_runtime.worker", description="Train a task, alone or under torchrun."
    )
    parser.add_argument("--entrypoint", required=True, help="package.module:function that returns a Task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, help="a folder for checkpoints; training resumes from it")
    parser.add_argument("--every-steps", type=int, help="steps between checkpoints")
    parser.add_argument("--every-seconds", type=float, help="seconds between checkpoints")
    parser.add_argument("--keep", type=int, default=3, help="checkpoints to keep")
    parser.add_argument(
        "--remote", help="a second tier for checkpoints: a folder of its own, such as s3://bucket/run-7"
    )
    parser.add_argument(
        "--sync", action="store_true", help="wait for each checkpoint instead of writing it in the background"
    )
    parser.add_argument("--strategy", default="{}", help='how to train together: JSON, e.g. {"precision": "bf16"}')
    parser.add_argument("--evaluate-every", type=int, help="steps between evaluations")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="after --: the task's own arguments")
    return parser


def _complaints(config: WorkerConfig) -> Iterable[str]:
    place, checkpoint = config.place, config.run.checkpoint
    if not config.run.entrypoint:
        yield "no entrypoint; a job with a command of its own does not use this worker"
    if not 0 <= place.rank < place.world_size:
        yield f"RANK={place.rank} does not fit WORLD_SIZE={place.world_size}"
    if config.identity.incarnation < 1:
        yield f"incarnation must be at least 1, got {config.identity.incarnation}"
    if checkpoint.every_steps is not None and checkpoint.every_seconds is not None:
        yield "checkpoint.everySteps and checkpoint.everySeconds exclude each other"
    for name, value in (
        ("checkpoint.everySteps", checkpoint.every_steps),
        ("checkpoint.everySeconds", checkpoint.every_seconds),
        ("checkpoint.keep", checkpoint.keep),
        ("evaluation.everySteps", config.run.evaluation.every_steps),
    ):
        if value is not None and value <= 0:
            yield f"{name} must be greater than 0, got {value}"
    if checkpoint.remote is not None and not re.match(URL_PATTERN, checkpoint.remote):
        yield f"checkpoint.remote is not a plain URL of {', '.join(SCHEMES)}: {checkpoint.remote!r}"
    if config.job_dir is None and (checkpoint.every_steps or checkpoint.every_seconds or checkpoint.remote):
        yield "checkpoints are asked for, but there is no volume to keep them on"
