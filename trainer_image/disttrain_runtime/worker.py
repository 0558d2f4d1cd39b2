"""One rank: `python -m disttrain_runtime.worker`, started by the agent, by torchrun, or by hand.

torchrun --nproc-per-node 2 -m disttrain_runtime.worker --entrypoint digits.task:build -- --epochs 3
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch

from disttrain_contract import env as contract
from disttrain_contract.drill import process_name
from disttrain_contract.exits import Exit, from_signal
from disttrain_contract.messages import Failure
from disttrain_contract.stall import Phase
from disttrain_runtime.agent.kernel import name_self
from disttrain_runtime.config import WorkerConfig, from_command_line, from_env
from disttrain_runtime.connections import Connections
from disttrain_runtime.entrypoint import build_task
from disttrain_runtime.errors import PeerGoneError, Verdict, WorkerError, is_victim, judge
from disttrain_runtime.generators import reseed
from disttrain_runtime.groups import break_group, leave_group
from disttrain_runtime.orders import Orders, can_hear
from disttrain_runtime.pulse import Pulse
from disttrain_runtime.randomness import Stream
from disttrain_runtime.rendezvous import device_of, form_group
from disttrain_runtime.reporting import Reporter, print_line
from disttrain_runtime.strategies import make_strategy
from disttrain_runtime.train import Training


class Worker:
    """One rank from its configuration to its exit code."""

    def __init__(self, config: WorkerConfig, pulse: Pulse) -> None:
        self.config, self.pulse = config, pulse
        self.reporter = Reporter(config.report_fd, print_line, time.monotonic)
        self.training: Training | None = None
        self._guard = threading.Lock()
        """Held while it is decided to cut connections, and while they are cut, so that they are never those of the next group."""
        self._connections: Connections | None = None
        """Of the present group; None between two groups."""
        fd = config.report_fd
        self.orders = Orders(fd, self._heard) if fd is not None and can_hear(fd) else None
        if self.orders is not None:
            self.orders.listen()

    def run(self) -> int:
        """Build, meet the others, train. The task is built first: a mistake in it needs nobody else to be found."""
        make_deterministic()
        training = None
        if self.config.spare:
            training = None if torch.cuda.is_available() else self._build()  # which GPU, its place will tell
            if not self._take_place(0):
                return Exit.STOPPED
        training = training or self._build()
        self.training = training
        while True:
            try:
                finished = self._train(training)
            except Exception as error:
                if not self._hold(error):
                    raise
            else:
                leave_group()
                return Exit.DONE if finished else Exit.STOPPED

    def _build(self) -> Training:
        config, device = self.config, device_of(self.config.place)
        reseed(config.run.seed, Stream.BUILD, 0, 0)
        task = build_task(config.entrypoint, config.run.args)
        strategy = make_strategy(config.run.strategy, task, device)
        training = Training(config, task, strategy, self.reporter, time.monotonic, self.pulse)
        training.is_over = self._is_replaced
        training.rehearse()
        return training

    def _train(self, training: Training) -> bool:
        self.pulse.begin()
        self._connect(Connections())
        self.pulse.enter(Phase.MEETING)
        group = form_group(self.config.place, self._is_over)
        self.pulse.enter(Phase.STARTING)
        if self._is_over():  # said before there were connections to cut
            raise PeerGoneError("the group was over before it began")
        return training.run(group, self.config.identity)

    def _hold(self, error: Exception) -> bool:
        """The group is broken, and this rank is not to blame: keep everything, wait for a place in the next group.

        False when it is this rank's own failure, or there is nobody to wait for, or it was told to stop meanwhile.
        """
        training = self.training
        if self.orders is None or training is None or training.stop.asked or not is_victim(error):
            return False
        with self._guard:
            self._break()
        leave_group()
        self._connect(None)
        self.reporter.holding(self.config.identity.incarnation, self._failure(judge(error)))
        if self._take_place(self.config.identity.incarnation):
            return True
        training.leave()
        return False

    def _take_place(self, incarnation: int) -> bool:
        """Wait for the order that tells where this rank belongs next. False: told to stop."""
        assert self.orders is not None, "a spare without an agent"
        training = self.training
        self.pulse.enter(Phase.REGROUPING)
        order = self.orders.wait(incarnation, lambda: training is not None and training.stop.asked)
        if order is None or order.environment is None:
            return False
        os.environ.update(order.environment)
        os.environ.pop(contract.SPARE, None)
        self.config = from_env(os.environ)
        name_self(process_name(self.config.place.rank))
        return True

    def _is_replaced(self) -> bool:
        """Whether a newer group than the present one is called for."""
        return self.orders is not None and self.orders.newer_than(self.config.identity.incarnation)

    def _is_over(self) -> bool:
        """The same, or no group any more."""
        return self._is_replaced() or (self.training is not None and self.training.stop.asked)

    def _heard(self) -> None:
        """On the listening thread: end the wait of the rank's own thread."""
        with self._guard:
            if self._is_over():
                self._break()

    def _connect(self, connections: Connections | None) -> None:
        with self._guard:
            self._connections = connections

    def _break(self) -> None:
        if self._connections is not None:
            break_group(self._connections)

    def fail(self, error: BaseException) -> int:
        """Say what happened, let go of the peers at once, and give the exit code."""
        if self.training is not None and self.training.stop.asked and is_victim(error):
            return Exit.STOPPED  # told to stop, and a peer was quicker
        verdict = judge(error)
        self.reporter.failure(self._failure(verdict))
        with self._guard:
            self._break()  # else two that fail together wait for each other to close
        with suppress(Exception):
            leave_group()
        sys.stderr.write(verdict.traceback or f"{type(error).__name__}: {verdict.message}\n")
        if self.training is not None:
            with suppress(Exception):
                self.training.abandon()
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


_KEPT: list[object] = []
"""Until this process ends (see `leave`): what is let go of is taken apart, and a broken group may wait for peers that are gone."""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """The exit code of this rank."""
    try:
        config = from_env(env) if contract.RUN in env and not argv else from_command_line(argv, env)
    except (WorkerError, ValueError, TypeError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return Exit.USER_ERROR
    name_self(process_name(None if config.spare else config.place.rank))
    worker = Worker(config, Pulse.from_env(env))
    _KEPT.append(worker)
    try:
        return worker.run()
    except KeyboardInterrupt:
        return from_signal(signal.SIGINT)  # a person at a terminal, who knows why
    except BaseException as error:  # whatever it is, the agent must hear of it
        _KEPT.append(error)  # and the frames that it passed, with what they hold
        return worker.fail(error)


def leave(exit_code: int) -> None:
    """End at once: destructors of a broken group may wait for peers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    leave(main(sys.argv[1:], os.environ))
