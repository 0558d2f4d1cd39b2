"""One rank: `python -m disttrain_runtime.worker`, started by the agent, by torchrun, or by hand.

torchrun --nproc-per-node 2 -m disttrain_runtime.worker --entrypoint digits.task:build -- --epochs 3
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch

from disttrain_contract import env as contract
from disttrain_contract.exits import Exit, from_signal
from disttrain_contract.messages import Failure
from disttrain_runtime.config import WorkerConfig, from_command_line, from_env
from disttrain_runtime.entrypoint import build_task
from disttrain_runtime.errors import Verdict, WorkerError, is_victim, judge
from disttrain_runtime.generators import reseed
from disttrain_runtime.groups import form_group, leave_group
from disttrain_runtime.randomness import Stream
from disttrain_runtime.reporting import Reporter, print_line
from disttrain_runtime.strategies import make_strategy
from disttrain_runtime.train import Training


class Worker:
    """One rank from its configuration to its exit code."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.reporter = Reporter(config.report_fd, print_line, time.monotonic)
        self.training: Training | None = None

    def run(self) -> int:
        """Build, meet the others, train. The task is built first: a mistake in it needs nobody else to be found."""
        config = self.config
        make_deterministic()
        reseed(config.run.seed, Stream.BUILD, 0, 0)
        task = build_task(config.entrypoint, config.run.args)
        group = form_group(config.place)
        strategy = make_strategy(config.run.synchronization, task, group)
        self.training = Training(config, task, group, strategy, self.reporter, time.monotonic)
        finished = self.training.run()
        leave_group()
        return Exit.DONE if finished else Exit.STOPPED

    def fail(self, error: BaseException) -> int:
        """Say what happened, let go of the peers at once, and give the exit code."""
        if self.training is not None and self.training.stop.asked and is_victim(error):
            return Exit.STOPPED  # told to stop, and a peer was quicker
        verdict = judge(error)
        self.reporter.failure(self._failure(verdict))
        with suppress(Exception):
            leave_group()
        sys.stderr.write(verdict.traceback or f"{type(error).__name__}: {verdict.message}\n")
        if self.training is not None:
            with suppress(Exception):
                self.training.checkpoints.abandon()
        return verdict.exit_code

    def _failure(self, verdict: Verdict) -> Failure:
        place = self.config.place
        return Failure(
            rank=place.rank,
            local_rank=place.local_rank,
            exit_code=verdict.exit_code,
            failure_class=verdict.failure_class,
            message=verdict.message,
            traceback=verdict.traceback,
            step=self.training.step if self.training is not None else None,
        )


def make_deterministic() -> None:
    """On the CPU equal steps give equal bits, at no cost worth naming. On a GPU this would cost speed, so it is left alone."""
    if torch.cuda.is_available():
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Only a program that reads memory it never wrote could notice; filling all new memory costs time in every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """The exit code of this rank."""
    try:
        config = from_env(env) if contract.RUN in env and not argv else from_command_line(argv, env)
    except (WorkerError, ValueError, TypeError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return Exit.USER_ERROR
    worker = Worker(config)
    try:
        return worker.run()
    except KeyboardInterrupt:
        return from_signal(signal.SIGINT)  # a person at a terminal, who knows why
    except BaseException as error:  # whatever it is, the agent must hear of it
        return worker.fail(error)


def leave(exit_code: int) -> None:
    """End at once: destructors of a broken group may wait for peers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    leave(main(sys.argv[1:], os.environ))
