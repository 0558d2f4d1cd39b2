"""disttrain's own training loop on one rank, with something to do before certain steps: what is measured is what users get."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.strategies.crew import SCRATCH
from disttrain_contract.env import RunConfig
from disttrain_contract.strategy import StrategyConfig
from disttrain_runtime.config import Identity, Place, WorkerConfig
from disttrain_runtime.connections import Connections
from disttrain_runtime.data import Batch
from disttrain_runtime.generators import reseed
from disttrain_runtime.groups import Group
from disttrain_runtime.pulse import Pulse
from disttrain_runtime.randomness import Stream
from disttrain_runtime.rendezvous import device_of, form_group
from disttrain_runtime.reporting import Reporter
from disttrain_runtime.strategies import make_strategy
from disttrain_runtime.task import Task
from disttrain_runtime.train import Training
from disttrain_runtime.worker import make_deterministic

_numbers = count()


class Enough(Exception):
    """Everything is measured; raised on all ranks before the same step."""


class Loop:
    """One rank's training, from nothing to the end of the task or `Enough`."""

    def __init__(
        self, build: Callable[[], Task], config: StrategyConfig, seed: int = 1, buddy_every: int | None = None
    ) -> None:
        make_deterministic()
        self.place = Place.from_env(os.environ)
        run = RunConfig(entrypoint="benchmark", seed=seed, strategy=config, buddy_every_steps=buddy_every)
        volume = _folder() if config.privacy is not None else None
        self.config = WorkerConfig(place=self.place, identity=Identity(), run=run, job_dir=volume)
        reseed(seed, Stream.BUILD, 0, 0)
        self.task = build()
        self.strategy = make_strategy(config, self.task, device_of(self.place))
        reporter = Reporter(None, lambda text: None, time.monotonic)
        self.training = Training(
            self.config, self.task, self.strategy, reporter, time.monotonic, Pulse.from_env(os.environ)
        )
        self.training.rehearse()
        self.connections = Connections()

    def join(self) -> Group:
        """Meet the others."""
        self.group = form_group(self.place, lambda: False)
        return self.group

    def run(self, before: Callable[[int], None]) -> None:
        """Train. `before` hears of each step (counted from 0) just before it is made, when all of the one before is done."""
        inner = self.training._batches

        def batches() -> Iterator[Batch]:
            for batch in inner():
                before(batch.share.step)  # outside the step: how long that takes is what the loop goes by
                yield batch

        self.training._batches = batches  # type: ignore[method-assign]
        try:
            self.training.run(self.group, self.config.identity)
        except Enough:
            pass
        finally:
            self.training._batches = inner  # type: ignore[method-assign]

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the newest evaluation."""
        return self.training.metrics


def _folder() -> Path:
    """What was spent on privacy has to be written down; for each training anew. Ranks train the same, in the same order."""
    folder = Path(os.environ[SCRATCH]) / str(next(_numbers))
    folder.mkdir(exist_ok=True)
    return folder
