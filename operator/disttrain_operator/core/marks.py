"""Which nodes fail jobs. A mark is no object of its own: it is what the recorded failures of all jobs add up to now.

What a node's failure is worth halves with every hour. What may just as well be the program's fault is only a suspicion, and what
the same job has shown on another node, too, is taken off: a program that breaks everywhere marks no node.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from disttrain_contract.failures import FailureClass
from disttrain_operator.core.model import NodeFailure, World

HALF_LIFE = timedelta(hours=1)
"""Bad hardware breaks the next job within the hour and renews its mark; a node that was rebooted or cut off for a while is
trusted again the same day without anybody's help. Twice as many failures are held against it only one hour longer."""
CERTAIN = 1.0
"""The node was lost: nobody else can be to blame."""
SUSPICION = 0.4
"""A signal, a hang, storage, a diverged replica: the node, or the program on it. One alone steers nobody, two within two hours do."""
STEERS = 0.5
"""From here on new pods avoid the node: one lost node for an hour."""
FORGOTTEN = 8 * HALF_LIFE
"""What is older counts for less than a hundredth of a failure."""
REMEMBERED = 32
"""Failures that a job keeps, the newest ones: more in eight hours is the program, or a node that is avoided anyway."""
MAX_AVOIDED = 32
"""Nodes named in a pod, the worst ones: a preference against half the cluster helps nobody."""
EVERY_NODE = "*"
"""Trusted: all nodes. Nothing is steered then."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is held against one node."""

    node: str
    score: float
    failures: int
    last: datetime

    @property
    def steers(self) -> bool:
        """New pods avoid the node."""
        return self.score >= STEERS

    @property
    def lasts(self) -> timedelta:
        """For how long, if nothing more happens."""
        return HALF_LIFE * max(0.0, math.log2(self.score / STEERS)) if self.score > 0 else timedelta(0)


def recorded(known: tuple[NodeFailure, ...], new: NodeFailure, now: datetime) -> tuple[NodeFailure, ...]:
    """With one more, without those that nobody remembers."""
    kept = (f for f in known if now - f.at < FORGOTTEN)
    return (*kept, new)[-REMEMBERED:]


def marks(jobs: Iterable[tuple[NodeFailure, ...]], now: datetime, trusted: frozenset[str] = frozenset()) -> list[Mark]:
    """All marks, the worst first. `jobs`: what each of them has recorded."""
    scores: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    last: dict[str, datetime] = {}
    for failures in jobs:
        fresh = tuple(f for f in failures if now - f.at < FORGOTTEN)
        for node, score in _of_one_job(fresh, now).items():
            scores[node] += score
        counts.update(f.node for f in fresh)
        for f in fresh:
            last[f.node] = max(last.get(f.node, f.at), f.at)
    found = [Mark(node, score, counts[node], last[node]) for node, score in scores.items() if score > 0]
    believed = [] if EVERY_NODE in trusted else [m for m in found if m.node not in trusted]
    return sorted(believed, key=lambda m: (-m.score, m.node))


def steering(world: World, own: tuple[NodeFailure, ...], now: datetime) -> list[Mark]:
    """The marks that steer, if the job itself has recorded `own`."""
    return [m for m in marks((own, *world.others), now, world.trusted) if m.steers]


def avoided(world: World, now: datetime) -> tuple[str, ...]:
    """The nodes that new pods of the job should rather not be placed on."""
    if not world.job.spec.avoid_marked_nodes:
        return ()
    return tuple(m.node for m in steering(world, world.job.status.node_failures, now)[:MAX_AVOIDED])


def _of_one_job(failures: tuple[NodeFailure, ...], now: datetime) -> dict[str, float]:
    """What one job says against each node."""
    certain: dict[str, float] = defaultdict(float)
    suspicion: dict[str, float] = defaultdict(float)
    for f in failures:
        worth = 0.5 ** (max(timedelta(0), now - f.at) / HALF_LIFE)
        if f.failure_class is FailureClass.NODE:
            certain[f.node] += CERTAIN * worth
        else:
            suspicion[f.node] += SUSPICION * worth
    return {n: certain[n] + max(0.0, suspicion[n] - _elsewhere(suspicion, n)) for n in {*certain, *suspicion}}


def _elsewhere(suspicion: dict[str, float], node: str) -> float:
    return max((s for n, s in suspicion.items() if n != node), default=0.0)
