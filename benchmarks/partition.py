"""A node is cut off, and its zombie comes back: `make bench-partition [ROUNDS=5]`. Two nodes of the local cluster, each in a
network namespace of its own; pulling a node's cable cuts it off from the API server, the operator and its peers alike.

An elastic job has pods on both nodes. Each round cuts the node that does not host the operator's leader, waits for the first
new step of the rest, heals the cable, and waits until all workers train together again. In the end every commit is looked at:
no step may have been committed by two incarnations. Writes partition.json; exit code 0 when nothing was committed twice.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

from dev.access import REPOSITORY, environment, run
from dev.cluster import network
from dev.cluster.addresses import NodeNet, node_number
from dev.cluster.progress import say, step

from disttrain.sdk import Client
from disttrain.sdk.job import Job
from disttrain_contract import labels

NAMESPACE, NAME = "bench-partition", "split"
OUT = REPOSITORY / "benchmarks" / "results" / "partition.json"
OPERATORS = "disttrain-system"
PATIENCE = 240.0
EVERY_STEPS = 20
SETTLE = 15.0
"""Seconds of common training between two cuts."""


def main() -> int:
    """0 when no step was committed twice."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.partition", description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    env = environment()
    os.environ["KUBECONFIG"] = env["KUBECONFIG"]
    run(["kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s"], env, quiet=True)
    run(["kubectl", "create", "namespace", NAMESPACE], env, quiet=True)
    node = _operators_to_one_node(env)
    client = Client.connect(kubeconfig=env["KUBECONFIG"], namespace=NAMESPACE)
    client.submit(manifest())
    rounds: list[dict[str, Any]] = []
    commits: dict[int, set[tuple[int, str]]] = {}
    try:
        _until(client, lambda j: _trains(j, 4) and _step(j) > EVERY_STEPS, "four workers train")
        for number in range(chosen.rounds):
            with step(f"round {number + 1}: {node} is cut off") as shown:
                rounds.append(one_round(client, node, commits))
                shown.note = f"new step after {rounds[-1]['new_step_seconds']:.1f} s, whole again {rounds[-1]['whole_seconds']:.1f} s after healing"
    finally:
        network.heal(NodeNet(node_number(node)))
    doubled = {step: sorted(found) for step, found in commits.items() if len(found) > 1}
    OUT.write_text(json.dumps({"rounds": rounds, "commits": len(commits), "doubled": doubled}, indent=1) + "\n")
    new = [r["new_step_seconds"] for r in rounds]
    say(f"cut → first new step: median {statistics.median(new):.1f} s, longest {max(new):.1f} s (n = {len(new)})")
    say(f"{len(commits)} commits seen, {len(doubled)} of them twice")
    client.delete(NAME, wait=True, timeout=60.0)
    return 1 if doubled else 0


def manifest() -> dict[str, Any]:
    """Two pods on each node; two are enough to go on."""
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {labels.JOB: NAME}}}
    return {
        "apiVersion": "disttrain.dev/v1alpha1", "kind": "DistTrainJob",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "image": "docker.io/disttrain/trainer:dev", "entrypoint": "digits.task:build", "args": ["--epochs", "100000"],
            "workers": 4, "elastic": {"minWorkers": 2, "maxWorkers": 4},
            "podTemplate": {"affinity": {"podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}],
            }}},
            "checkpoint": {"volume": {"size": "1Gi"}, "everySteps": EVERY_STEPS, "keep": 3},
            "recovery": {"budget": {"failures": 100}},
        },
    }  # fmt: skip


def one_round(client: Client, node: str, commits: dict[int, set[tuple[int, str]]]) -> dict[str, Any]:
    """Cut, watch, heal, watch."""
    before = client.get(NAME)
    at = _step(before)
    cable = NodeNet(node_number(node))
    began = time.monotonic()
    network.partition(cable)
    cut = time.monotonic()
    old = _incarnation(before)
    _until(client, lambda j: _incarnation(j) > old and _step(j) > at and j.state == "Running", "a new step", commits)
    first = time.monotonic()
    network.heal(cable)
    healed = time.monotonic()
    _until(client, lambda j: _trains(j, 4), "all four train again", commits)
    whole = time.monotonic()
    _watch(client, SETTLE, commits)
    return {
        "step": at, "cut_took": cut - began, "new_step_seconds": first - began, "whole_seconds": whole - healed,
        "recovery": client.get(NAME).raw.get("status", {}).get("recovery"),
    }  # fmt: skip


def _operators_to_one_node(env: dict[str, str]) -> str:
    """Cordon, restart, uncordon: the node without an operator is the one to cut. What a cut operator does is another story."""
    names = _nodes(env)
    if len(names) != 2:
        raise SystemExit(f"two nodes are needed, there are {len(names)}: make cluster-up NODES=2, make install")
    run(["kubectl", "cordon", names[1]], env, quiet=True)
    run(["kubectl", "--namespace", OPERATORS, "rollout", "restart", "deployment/disttrain"], env, quiet=True)
    run(
        ["kubectl", "--namespace", OPERATORS, "rollout", "status", "deployment/disttrain", "--timeout=120s"],
        env,
        quiet=True,
    )
    run(["kubectl", "uncordon", names[1]], env, quiet=True)
    return names[1]


def _nodes(env: dict[str, str]) -> list[str]:
    done = subprocess.run(
        ["kubectl", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted(done.stdout.split())


def _until(
    client: Client, true: Callable[[Job], bool], what: str, commits: dict[int, set[tuple[int, str]]] | None = None
) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        job = client.get(NAME)
        _note(job, commits)
        if true(job):
            return
        time.sleep(0.1)
    raise SystemExit(f"waited {PATIENCE:g} s for: {what}")


def _watch(client: Client, seconds: float, commits: dict[int, set[tuple[int, str]]]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _note(client.get(NAME), commits)
        time.sleep(0.2)


def _note(job: Job, commits: dict[int, set[tuple[int, str]]] | None) -> None:
    last = job.raw.get("status", {}).get("checkpoint", {}).get("lastCommitted")
    if commits is not None and last:
        commits.setdefault(last["step"], set()).add((last["incarnation"], last["digest"]))


def _step(job: Job) -> int:
    return job.status.progress.step if job.status.progress else 0


def _incarnation(job: Job) -> int:
    return int(job.raw.get("status", {}).get("incarnation", 0))


def _trains(job: Job, workers: int) -> bool:
    found = job.raw.get("status", {}).get("workers", {})
    return job.state == "Running" and int(found.get("active", 0)) == workers


if __name__ == "__main__":
    raise SystemExit(main())
