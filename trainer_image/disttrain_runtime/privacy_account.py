"""The account of a private run while a group trains: opened with the group, written before anything is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from hashlib import blake2b

from disttrain_contract.messages import Ending
from disttrain_contract.strategy import SAMPLE, Privacy
from disttrain_runtime.config import WorkerConfig
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.groups import Group
from disttrain_runtime.privacy import Span, affordable, epsilon, reserve
from disttrain_runtime.privacy_ledger import Ledger, decode


class Account:
    """One rank's view of it; rank 0 writes. Releases are counted from 0: steps, or exchanges (see `Span.unit`)."""

    def __init__(self, privacy: Privacy, config: WorkerConfig, group: Group, span: Span, *, trained: int, last: int) -> None:  # fmt: skip
        """A collective. `span` begins and ends with the release that comes next; the task would make `last` of them.
        `trained`: for how many steps the model has been trained."""
        if config.job_dir is None:
            raise EntrypointError(
                "strategy.privacy needs a checkpoint volume: without it a restart would forget what was spent"
            )
        self._ledger = Ledger(config.job_dir) if group.leads else None
        book = decode(group.broadcast(self._ledger.open(trained).encode() if self._ledger is not None else None))
        require_same_unit(book.spans, span)
        self.secret, self.span = book.secret, span
        self._privacy, self._past, self._reserved = privacy, book.spans, span.first
        target = privacy.target_epsilon
        self.limit = last if target is None else affordable(book.spans, span, last, privacy.delta, target)
        """How many releases there may be."""

    def reserve(self, number: int) -> None:
        """What a release may tell is written down before it begins; nobody can see anything of it without rank 0's part."""
        if self._ledger is not None and number >= self._reserved:
            self._reserved = reserve(number, self.limit)
            self._ledger.add(replace(self.span, end=self._reserved))

    def epsilon(self, released: int) -> float:
        """A recovery counts what the ledger says, which may be some releases more than there were, and never fewer."""
        return epsilon([*self._past, replace(self.span, end=released)], self._privacy.delta)

    def ending(self, step: int, total_steps: int) -> Ending:
        """Why training ends at this step, where the limit is."""
        spent, target, delta = self.epsilon(self.limit), self._privacy.target_epsilon or 0, self._privacy.delta
        message = (
            f"epsilon {spent:.3g} of {target:g} (delta {delta:g}) is spent after step {step} of {total_steps}, "
            "and going on would spend more"
        )
        return Ending(reason="TargetEpsilonReached", message=message)


def run_name(config: WorkerConfig) -> str:
    """What decides what a step computes, but for the number of ranks: job and configuration."""
    text = f"{config.identity.job_uid}/{json.dumps(asdict(config.run), sort_keys=True)}"
    return blake2b(text.encode(), digest_size=12).hexdigest()


def require_same_unit(past: Iterable[Span], own: Span) -> None:
    """Epsilons of samples and of workers do not add up; nor do those of workers that had other parts of the data."""
    for span in past:
        if span.unit != own.unit:
            raise EntrypointError(
                f"this job's account is of each {span.unit} (strategy.privacy.unit), and cannot go on as one of each {own.unit}: "
                "give the job another name"
            )
        if own.unit != SAMPLE and span.world_size != own.world_size:
            raise EntrypointError(
                f"this job's account is of each of {span.world_size} workers, and there are {own.world_size} now, with other parts of the data: "
                f"go on with {span.world_size}, or give the job another name"
            )
