"""Every way to train, as a real job that loses a rank in its middle: it recovers once, ends, and has learnt what it should.

The jobs are small, and most of the time of each is its start: three run at a time, and each story waits for its own.
"""

from __future__ import annotations

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
STEPS = 120
SAVED_EVERY = 20
LEARNT = {
    "digits": ("accuracy", 0.85, 1.0, ["--epochs", "8"]),
    "language": ("evalLoss", 1.0, 2.9, ["--steps", str(STEPS), "--width", "32", "--heads", "2", "--layers", "2"]),
}
"""A metric, its bounds, and arguments for 120 steps. Ten digits guessed at random: 0.1. Of the book's characters, all being
equally likely: 4.3 nats, and their frequencies alone: 3.1."""


@dataclass(frozen=True)
class Case:
    """One job. The rank that dies is the last one, which is in the last worker."""

    strategy: Wire
    workers: int = 1
    processes: int = 2
    task: str = "digits"
    source: str = "survivor"
    most_lost: int = STEPS
    """Finished steps that may be run again."""
    measures: tuple[str, ...] = ()
    """What the strategy says of itself in status.progress.metrics."""

    @property
    def ranks(self) -> int:
        return self.workers * self.processes


def method(name: str, most_lost: int, *measures: str, workers: int = 1, processes: int = 3, **more: Any) -> Case:
    """A way to stay in step."""
    strategy = {"synchronization": {"method": name} | more}
    return Case(strategy, workers, processes, most_lost=most_lost, measures=measures)


def compressed(name: str, **more: Any) -> Case:
    """Gradients that are made smaller."""
    return Case({"compression": {"method": name} | more}, most_lost=0)


def cut(workers: int = 1, processes: int = 2, task: str = "digits", **parallelism: Any) -> Case:
    """A model of which each rank has a part: who dies takes its part along."""
    return Case({"parallelism": parallelism}, workers, processes, task, source="volume", most_lost=STEPS)


def stages(schedule: str) -> Wire:
    return {"stages": 2, "schedule": schedule, "microbatches": 4}


CASES = {
    "all-reduce": Case({"synchronization": {"method": "allReduce"}}, workers=2, processes=1, most_lost=0),
    "fp16-gradients": compressed("fp16"),
    "bf16-gradients": compressed("bf16"),
    "power-sgd": compressed("powerSGD", rank=2),
    "top-k": compressed("topK", ratio=0.05),
    "sign": compressed("sign"),
    "parameter-server": method("parameterServer", 15, workers=3, processes=1),
    "parameter-server-late": method("parameterServer", 15, "stalenessMean", "stalenessMax", servers=2, maxStaleness=2),
    "model-averaging": method("modelAveraging", 8, everySteps=8),
    "diloco": method("diLoCo", 10, everySteps=10, fragments=2),
    "round-robin": method("roundRobin", 4, everySteps=4),
    "async-ring": method("asyncRing", 10, "staleness", "maxStaleness", "waits", meetEverySteps=10),
    "gossip": method("gossip", 10, "replicaDistance", meetEverySteps=10),
    "private": Case(
        {"privacy": {"noiseMultiplier": 0.6, "maxGradNorm": 1.0, "delta": 1e-5}}, most_lost=0, measures=("epsilon",)
    ),
    "fsdp-full": cut(shard="full"),
    "fsdp-hybrid": cut(workers=2, shard="hybrid"),
    "tensor": cut(task="language", tensor=2),
    "gpipe": cut(pipeline=stages("gpipe")),
    "1f1b": cut(pipeline=stages("1f1b")),
    "interleaved-1f1b": cut(pipeline=stages("interleaved1f1b")),
    "zero-bubble": cut(pipeline=stages("zeroBubble")),
    "pipeline-data": cut(workers=2, pipeline=stages("1f1b")),
    "pipeline-tensor": cut(processes=4, task="language", pipeline=stages("1f1b"), tensor=2),
}


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest, kubeconfig: Path, kubectl_path: str
) -> Iterator[dict[str, Future[Wire]]]:
    """The last status of each job whose story is to be told, as soon as it is there."""
    told = [str(i.callspec.id) for i in request.session.items if getattr(i, "callspec", None) and i.path == request.path]
    for cluster in fresh_namespaces(kubeconfig, kubectl_path, "s"):
        pool = ThreadPoolExecutor(AT_A_TIME)
        yield {name: pool.submit(train, cluster, name, CASES[name]) for name in told}
        pool.shutdown(cancel_futures=True)


def train(cluster: Cluster, name: str, case: Case) -> Wire:
    """From `apply` to the end, with the death of a rank soon after the first checkpoint."""
    cluster.apply(
        job(
            name, entrypoint=f"{case.task}.task:build", args=LEARNT[case.task][3], strategy=case.strategy,
            workers=case.workers, processesPerWorker=case.processes,
            checkpoint={"volume": {"size": "64Mi"}, "everySteps": SAVED_EVERY},
        )
    )  # fmt: skip
    running = cluster.job(name)
    running.wait("Running")
    saved = f"ls -d /checkpoints/{name}/checkpoints/step-* >/dev/null 2>&1"
    kill = f"python -m disttrain_runtime.drill kill-rank --rank {case.ranks - 1}"
    running.sh(case.workers - 1, f"until {saved}; do sleep 0.1; done; {kill}", timeout=120)
    running.wait("Succeeded", timeout=120)
    return running.status


@pytest.mark.parametrize("name", CASES)
def test_a_job_that_loses_a_rank_ends_and_has_learnt(ended: dict[str, Future[Wire]], name: str) -> None:
    case, status = CASES[name], ended[name].result()
    recovery, progress = status["recovery"], status["progress"]
    last = recovery["last"]
    assert recovery["count"] == 1 and status["incarnation"] == 2
    assert last["class"] == "Signal" and last["rank"] == case.ranks - 1 and last["pod"] == f"{name}-{case.workers - 1}"
    assert last["source"] == case.source and SAVED_EVERY // 2 <= last["restoredStep"] < STEPS
    assert last["lostSteps"] <= case.most_lost
    assert progress["step"] == progress["totalSteps"] == STEPS
    metric, least, most, _ = LEARNT[case.task]
    assert least <= progress["metrics"][metric] <= most
    assert set(case.measures) <= set(progress["metrics"])
