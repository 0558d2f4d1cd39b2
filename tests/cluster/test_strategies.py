"""Every way to train, as a real job that loses a rank in its middle: it recovers once, ends, and has learnt what it should.

The jobs are small, and most of the time of each is its start: three run at a time, and each story waits for its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster, Wire, fresh_namespaces, job

pytestmark = pytest.mark.cluster

AT_A_TIME = 3
"""Two cores are busy with it; more would only make each of them slower."""
STEPS = 60
SAVED_EVERY = 20
BUDDY = ("buddy", "volume")
"""Where a part comes from that nobody else trains: from a copy in memory, or from the volume if that copy was still on its way."""
SURVIVOR = ("survivor",)
KILL = """
import os, sys, time
from pathlib import Path
from disttrain_runtime.drill import main
while not any(Path(sys.argv[1]).glob("step-*")):
    time.sleep(0.02)
sys.exit(main(["kill-rank", "--rank", sys.argv[2]], os.environ))
"""
"""In the worker, and imported ahead of need: the rank dies a few steps behind the first checkpoint, however fast they are."""


@dataclass(frozen=True)
class Learning:
    """A task, small enough, and what it should have learnt when it ends."""

    entrypoint: str
    args: tuple[str, ...]
    metric: str
    least: float
    most: float
    steps: int = STEPS


DIGITS = Learning("digits.task:build", ("--epochs", "4"), "accuracy", 0.4, 1.0)
"""Guessed at random: 0.1. All-reduce is at 0.87 by then, powerSGD of rank 2 at 0.5."""
PRIVATE_DIGITS = Learning("digits.task:build", ("--epochs", "8"), "accuracy", 0.3, 1.0, steps=2 * STEPS)
"""The noise costs accuracy, so it gets twice the steps: about 0.5."""
LANGUAGE = Learning(
    "language.task:build",
    ("--steps", str(STEPS), "--batch-size", "8", "--width", "32", "--heads", "2", "--layers", "2"),
    "evalLoss", 1.0, 3.3,
)  # fmt: skip
"""In nats: 4.3 if all of the book's characters were equally likely, 3.1 if their frequencies are known."""
SPEECH = Learning("speech.task:build", ("--epochs", "12", "--voices", "30"), "accuracy", 0.2, 1.0)
"""Sound (synthetic): 300 words in batches of 64. Guessed at random: 0.1."""


@dataclass(frozen=True)
class Case:
    """One job. The rank that dies is the last one, which is in the last worker."""

    strategy: Wire
    workers: int = 1
    processes: int = 2
    learning: Learning = DIGITS
    sources: tuple[str, ...] = SURVIVOR
    most_lost: int = 0
    """Finished steps that may be run again."""
    measures: tuple[str, ...] = ()
    """What the strategy says of itself in status.progress.metrics."""

    @property
    def victim(self) -> int:
        return self.workers * self.processes - 1


def method(name: str, most_lost: int, *measures: str, workers: int = 1, processes: int = 2, **more: Any) -> Case:
    """A way to stay in step. All go back to the last meeting."""
    strategy = {"synchronization": {"method": name} | more}
    return Case(strategy, workers, processes, most_lost=most_lost, measures=measures)


def compressed(name: str, **more: Any) -> Case:
    """Gradients that are made smaller."""
    return Case({"compression": {"method": name} | more})


def cut(
    workers: int = 1,
    processes: int = 2,
    learning: Learning = DIGITS,
    sources: tuple[str, ...] = BUDDY,
    **parallelism: Any,
) -> Case:
    """A model of which each rank has a part: who dies takes its part along."""
    lost = 0 if sources == SURVIVOR else SAVED_EVERY
    return Case({"parallelism": parallelism}, workers, processes, learning, sources, most_lost=lost)


def stages(schedule: str) -> Wire:
    return {"stages": 2, "schedule": schedule, "microbatches": 4}


CASES = {
    "all-reduce": Case({"synchronization": {"method": "allReduce"}}, workers=2, processes=1),
    "fp16-gradients": compressed("fp16"),
    "bf16-gradients": compressed("bf16"),
    "power-sgd": compressed("powerSGD", rank=2),
    "top-k": compressed("topK", ratio=0.05),
    "sign": compressed("sign"),
    "parameter-server": method("parameterServer", 15, workers=2, processes=1),
    "parameter-server-late": method("parameterServer", 15, "stalenessMean", "stalenessMax", servers=1, maxStaleness=2),
    "model-averaging": method("modelAveraging", 8, everySteps=8),
    "post-local-sgd": method("modelAveraging", 8, everySteps=8, synchronousSteps=30),
    "diloco": method("diLoCo", 10, everySteps=10, fragments=2),
    "round-robin": method("roundRobin", 4, everySteps=4),
    "async-ring": method("asyncRing", 10, "staleness", "maxStaleness", "waits", processes=3, meetEverySteps=10),
    "gossip": method("gossip", 10, "replicaDistance", processes=3, meetEverySteps=10),
    "private": Case(
        {"privacy": {"noiseMultiplier": 0.6, "maxGradNorm": 1.0, "delta": 1e-5}},
        learning=PRIVATE_DIGITS, measures=("epsilon",),
    ),
    "private-workers": Case(
        {
            "synchronization": {"method": "modelAveraging", "everySteps": 10},
            "privacy": {"unit": "worker", "noiseMultiplier": 0.01, "maxGradNorm": 4.0, "delta": 1e-5},
        },
        workers=2, processes=1, most_lost=10, measures=("epsilon",),
    ),
    "bf16-accumulated": Case({"precision": "bf16", "accumulate": 2}),
    "recomputed": Case({"activationCheckpointing": True, "maxGradNorm": 1.0}, workers=2, processes=1),
    "speech": Case({"synchronization": {"method": "allReduce"}}, workers=2, processes=1, learning=SPEECH),
    "fsdp-full": cut(shard="full"),
    "fsdp-hybrid": cut(workers=2, sources=SURVIVOR, shard="hybrid"),
    "tensor": cut(learning=LANGUAGE, tensor=2),
    "sequence": cut(learning=LANGUAGE, tensor=2, sequence=True),
    "gpipe": cut(pipeline=stages("gpipe")),
    "one-forward-one-backward": cut(pipeline=stages("1f1b")),
    "interleaved-1f1b": cut(pipeline=stages("interleaved1f1b")),
    "zero-bubble": cut(pipeline=stages("zeroBubble")),
    "pipeline-data": cut(workers=2, sources=SURVIVOR, pipeline=stages("1f1b")),
    "pipeline-tensor": cut(processes=4, learning=LANGUAGE, pipeline=stages("1f1b"), tensor=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest, kubeconfig: Path, kubectl_path: str) -> Iterator[dict[str, Future[Wire]]]:
    """The last status of each job whose story is to be told, as soon as it is there."""
    told = [
        str(i.callspec.id) for i in request.session.items if getattr(i, "callspec", None) and i.path == request.path
    ]
    for cluster in fresh_namespaces(kubeconfig, kubectl_path, "s"):
        pool = ThreadPoolExecutor(AT_A_TIME)
        yield {name: pool.submit(train, cluster, name, CASES[name]) for name in told}
        pool.shutdown(cancel_futures=True)


def train(cluster: Cluster, name: str, case: Case) -> Wire:
    """From `apply` to the end, with the death of a rank behind the first checkpoint."""
    cluster.apply(
        job(
            name, entrypoint=case.learning.entrypoint, args=case.learning.args, strategy=case.strategy,
            workers=case.workers, processesPerWorker=case.processes,
            checkpoint={"volume": {"size": "64Mi"}, "everySteps": SAVED_EVERY},
        )
    )  # fmt: skip
    running = cluster.job(name)
    running.wait("Running")
    kill = ["python", "-c", KILL, f"/checkpoints/{name}/checkpoints", str(case.victim)]
    running.sh(case.workers - 1, shlex.join(kill), timeout=120)
    running.wait("Succeeded", timeout=120)
    return running.status


@pytest.mark.parametrize("name", CASES)
def test_a_job_that_loses_a_rank_ends_and_has_learnt(ended: dict[str, Future[Wire]], name: str) -> None:
    case, status = CASES[name], ended[name].result()
    recovery, progress = status["recovery"], status["progress"]
    last = recovery["last"]
    assert recovery["count"] == 1 and status["incarnation"] == 2, last
    assert (last["class"], last["rank"], last["pod"]) == ("Signal", case.victim, f"{name}-{case.workers - 1}")
    assert last["source"] in case.sources and 0 < last["restoredStep"] < case.learning.steps
    assert last["lostSteps"] <= case.most_lost
    assert progress["step"] == progress["totalSteps"] == case.learning.steps
    assert case.learning.least <= progress["metrics"][case.learning.metric] <= case.learning.most
    assert set(case.measures) <= set(progress["metrics"])
