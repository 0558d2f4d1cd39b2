"""A node's cable is pulled while a job trains on it: the rest goes on, and what comes back can do no harm. Two real nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from dev.cluster import local, network
from dev.cluster.addresses import NodeNet, node_number
from dev.cluster.paths import current_paths

from support.cluster import Cluster, Job, job

pytestmark = pytest.mark.cluster

AFTERWARDS_SECONDS = 10.0
"""Of common training behind the healing, in which a zombie could do harm."""


@pytest.fixture
def cable(system: Cluster) -> Iterator[NodeNet]:
    """Of the node without the leading operator: what an operator does that is cut off itself is the lease's story."""
    leader = system.get("lease", "disttrain")
    assert leader is not None
    holder = leader["spec"]["holderIdentity"]
    pods = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in system.list("pods")}
    there = next(node for pod, node in pods.items() if holder.startswith(pod))
    names = local.node_names(current_paths())
    if len(names) < 2:
        pytest.skip("two nodes of the local cluster are needed: make cluster-up NODES=2")
    net = NodeNet(node_number(next(name for name in names if name != there)))
    yield net
    network.heal(net)


def elastic(cluster: Cluster, name: str) -> Job:
    """One worker on each node, and one is enough to go on."""
    alike = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"disttrain.dev/job": name}}}
    apart = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": alike}]}
    cluster.apply(
        job(
            name, workers=2, args=["--epochs", "100000"], elastic={"minWorkers": 1, "maxWorkers": 2},
            podTemplate={"affinity": {"podAntiAffinity": apart}},
            checkpoint={"volume": {"size": "256Mi"}, "everySteps": 20, "keep": 3},
        )
    )  # fmt: skip
    return cluster.job(name)


def test_the_rest_trains_on_without_a_node_that_is_cut_off_and_takes_it_back(cluster: Cluster, cable: NodeNet) -> None:
    train = elastic(cluster, "split")
    train.wait_checkpoint(20)
    lost = {name for name, pod in train.pods().items() if pod["spec"]["nodeName"] == cable.name}
    assert len(lost) == 1, "the scheduler has put one worker on each node"
    commits: dict[int, set[tuple[int, str]]] = {}

    def until(what: str, true: Callable[[dict], bool]) -> None:  # type: ignore[type-arg]
        def look() -> bool:
            status = train.status
            last = status["checkpoint"]["lastCommitted"]
            commits.setdefault(last["step"], set()).add((last["incarnation"], last["digest"]))
            return true(status)

        cluster.until(what, look, timeout=120, every=0.1)

    before = train.status
    network.partition(cable)
    until(
        "a new step of the rest",
        lambda s: s["incarnation"] > before["incarnation"] and s["progress"]["step"] > before["progress"]["step"],
    )
    assert {f["node"] for f in train.status["recovery"]["nodeFailures"]} == {cable.name}
    assert train.status.get("attempts", 0) == 0, "a node's death is not the job's fault"
    network.heal(cable)
    until("both train together again", lambda s: s["workers"].get("active") == 2 and s["state"] == "Running")
    whole, end = train.status["checkpoint"]["lastCommitted"]["step"], time.monotonic() + AFTERWARDS_SECONDS
    until("training goes on", lambda s: time.monotonic() > end and s["checkpoint"]["lastCommitted"]["step"] > whole)
    twice = {step: who for step, who in commits.items() if len(who) > 1}
    assert not twice, "a step is committed by one incarnation only"
