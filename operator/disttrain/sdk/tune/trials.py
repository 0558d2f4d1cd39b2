"""What Optuna remembers: trials, their parameters, and how they went. A file, so that a search outlives its tuner."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from disttrain.sdk.errors import BadInput
from disttrain.sdk.tune.search import Choices, Range, Search, Value

SUBMITTED = "submitted"
REASON = "reason"
ID = "id"


@dataclass(frozen=True, slots=True)
class Standing:
    """One trial."""

    number: int
    state: str
    """running, complete, pruned or failed."""
    parameters: Mapping[str, Value]
    value: float | None = None
    step: int | None = None
    """The newest evaluation that was seen, by its step."""
    submitted: bool = False
    reason: str = ""
    """Why it failed."""
    seen: Mapping[int, float] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Not ended."""
        return self.state == "running"


_STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Trials:
    """An Optuna study in a file, opened by one tuner at a time."""

    def __init__(self, path: Path, search: Search) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._lock = search, _lock(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                study_name=search.name,
                storage=storage,
                direction="maximize" if search.mode == "max" else "minimize",
                load_if_exists=True,
            )
            done = len(self._study.get_trials(deepcopy=False))
            # Its own numbers for every life of the tuner: else it would propose again what it proposed at the start.
            self._study.sampler = TPESampler(seed=search.seed + done, constant_liar=True)
        prune = search.prune
        self._study.pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=prune.startup_trials, n_warmup_steps=prune.warmup_steps)
            if prune is not None
            else optuna.pruners.NopPruner()
        )
        if ID not in self._study.user_attrs:
            self._study.set_user_attr(ID, uuid4().hex)
        self.id: str = self._study.user_attrs[ID]
        """Of this very search."""

    def close(self) -> None:
        """Let another tuner in."""
        os.close(self._lock)

    def all(self) -> Sequence[Standing]:
        """By number."""
        return [_standing(trial) for trial in self._study.get_trials(deepcopy=False)]

    def ask(self) -> Standing:
        """A new trial."""
        space = {name: _distribution(wanted) for name, wanted in self._search.parameters.items()}
        trial = self._study.ask(space)
        return _standing(self._frozen(trial.number))

    def submitted(self, number: int) -> None:
        """Its job is there."""
        self._trial(number).set_user_attr(SUBMITTED, True)

    def saw(self, number: int, step: int, value: float) -> bool:
        """An evaluation at this step. True: give the trial up.

        Trials are compared at the same steps. Those that went by between two looks count with what was seen at the next.
        """
        every = self._search.every_steps
        if every is None or step < every:
            return False
        trial, seen = self._trial(number), self._frozen(number).intermediate_values
        newest = max(seen, default=0)
        for rung in range(newest + every, step // every * every + 1, every):
            trial.report(value, rung)
        return step // every * every > newest and trial.should_prune()

    def complete(self, number: int, value: float) -> None:
        """It has come to its end."""
        self._study.tell(number, value)

    def prune(self, number: int) -> None:
        """It is given up."""
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """It gives no value."""
        self._trial(number).set_user_attr(REASON, reason)
        self._study.tell(number, state=TrialState.FAIL)

    def best(self) -> Standing | None:
        """The best of those that have come to their end."""
        done = [t for t in self.all() if t.state == "complete" and t.value is not None]
        sign = -1 if self._search.mode == "max" else 1
        return min(done, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        found: FrozenTrial = self._study.get_trials(deepcopy=False)[number]
        return found


def _standing(trial: FrozenTrial) -> Standing:
    return Standing(
        number=trial.number,
        state=_STATES[trial.state],
        parameters=trial.params,
        value=trial.value,
        step=max(trial.intermediate_values, default=None),
        submitted=bool(trial.user_attrs.get(SUBMITTED)),
        reason=str(trial.user_attrs.get(REASON, "")),
        seen=dict(trial.intermediate_values),
    )


def _distribution(wanted: Range | Choices) -> BaseDistribution:
    if isinstance(wanted, Choices):
        return CategoricalDistribution(wanted.choices)
    if wanted.whole:
        return IntDistribution(int(wanted.low), int(wanted.high), log=wanted.log, step=int(wanted.step or 1))
    return FloatDistribution(float(wanted.low), float(wanted.high), log=wanted.log, step=wanted.step)


def _lock(path: Path) -> int:
    """Of the tuner. PATH.lock is what Optuna holds while it writes."""
    fd = os.open(f"{path}.tuner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BadInput(f"another tuner is at work on {path}", hint="end it, or give --study another file") from None
    return fd
