"""Scale: `make bench-scale`. 1,000 jobs of 4 pods on KWOK's fake nodes against the real API server of the local cluster.

In one run, interleaved by rounds: a raw client that only creates pods (the machine's limit) and the operator. Then the
operator is watched at rest. KWOK's pods have no agents, so no group forms: this measures watching, planning, creating
and remembering, not training. Writes JSON and a plot; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
from dev.access import REPOSITORY, environment, run
from dev.cluster.progress import say, step

NAMESPACE = "bench-scale"
OUT = REPOSITORY / "benchmarks" / "results"
HEALTH_PORT, STREAM_PORT = 18080, 18443
TOLERATION = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
WRITES = ("POST", "PUT", "PATCH", "DELETE")


def main() -> None:
    """Prepare, measure, write down, clean up."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=1000)
    options.add_argument("--workers", type=int, default=4)
    options.add_argument(
        "--rounds", type=int, default=5, help="the jobs come in so many batches, each beside a raw batch"
    )
    options.add_argument("--idle-seconds", type=int, default=60)
    chosen = options.parse_args()
    env = environment()
    with cluster(env, nodes=2 * chosen.jobs * chosen.workers // 500 + 2):
        write(measure(env, chosen))


@contextmanager
def cluster(env: dict[str, str], nodes: int) -> Iterator[None]:
    """Fake nodes and a namespace; the installed operator rests, so that only the measured one acts."""
    run([sys.executable, "-m", "dev.cluster", "kwok-up", "--nodes", str(nodes)], env)
    run(["kubectl", "apply", "-f", "crds/"], env, quiet=True)
    kubectl(env, "create", "namespace", NAMESPACE)
    scaled = kubectl(env, "-n", "disttrain-system", "scale", "deployment/disttrain", "--replicas=0")
    try:
        yield
    finally:
        with step("clean-up"):
            kubectl(env, "delete", "namespace", NAMESPACE, "--timeout=300s")
            run([sys.executable, "-m", "dev.cluster", "kwok-down"], env, quiet=True)
            if scaled:
                kubectl(env, "-n", "disttrain-system", "scale", "deployment/disttrain", "--replicas=2")


def kubectl(env: dict[str, str], *args: str) -> bool:
    """Whether it worked."""
    return subprocess.run(["kubectl", *args], env=env, capture_output=True, check=False).returncode == 0


@contextmanager
def operator(env: dict[str, str]) -> Iterator[psutil.Process]:
    """The operator, out of the cluster, as it is in its pod otherwise."""
    settings = {
        "DISTTRAIN_OPERATOR_NAMESPACE": NAMESPACE, "DISTTRAIN_OPERATOR_POD": "bench", "DISTTRAIN_LEASE_NAME": "bench",
        "DISTTRAIN_STREAM_URL": f"ws://127.0.0.1:{STREAM_PORT}", "DISTTRAIN_STREAM_PORT": str(STREAM_PORT),
        "DISTTRAIN_HEALTH_PORT": str(HEALTH_PORT), "DISTTRAIN_LOG_LEVEL": "warning",
    }  # fmt: skip
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "scale-operator.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "disttrain_operator"], env={**env, **settings}, stderr=log, stdout=log
        )
        try:
            wait_until(lambda: metric("disttrain_leader") == 1, 60)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)


def measure(env: dict[str, str], chosen: argparse.Namespace) -> dict[str, Any]:
    """Raw and operator batches in turn, then rest."""
    per_round = chosen.jobs // chosen.rounds
    raw_rates, our_rates, memory = [], [], []
    with operator(env) as process, Api(env) as api:
        empty = process.memory_info().rss / 2**20
        cpu = sum(process.cpu_times()[:2])
        for number in range(chosen.rounds):
            with step(f"round {number + 1} of {chosen.rounds}") as current:
                raw_rates.append(raw_round(api, number, per_round * chosen.workers))
                our_rates.append(our_round(api, number, per_round, chosen.workers))
                memory.append(process.memory_info().rss / 2**20)
                current.note = (
                    f"raw {raw_rates[-1]:.0f} pods/s, operator {our_rates[-1]:.0f} pods/s, {memory[-1]:.0f} MiB"
                )
        busy = sum(process.cpu_times()[:2]) - cpu
        time.sleep(15)  # let the last status writes come out
        before, cpu = writes(), sum(process.cpu_times()[:2])
        with step(f"at rest for {chosen.idle_seconds} s"):
            time.sleep(chosen.idle_seconds)
        after = writes()
        return {
            "jobs": per_round * chosen.rounds, "workers": chosen.workers, "raw_pods_per_second": raw_rates,
            "operator_pods_per_second": our_rates, "memory_mib_empty": empty, "memory_mib": memory,
            "memory_mib_at_rest": process.memory_info().rss / 2**20, "cpu_seconds_per_1000_jobs": busy / per_round / chosen.rounds * 1000,
            "idle_writes": {k: after[k] - before.get(k, 0) for k in after if after[k] != before.get(k, 0)},
            "idle_seconds": chosen.idle_seconds, "idle_cpu_seconds": sum(process.cpu_times()[:2]) - cpu,
            "writes_per_job": sum(v for k, v in before.items() if "lease" not in k) / per_round / chosen.rounds,
            "writes": before, "machine": {"cores": os.cpu_count(), "load": os.getloadavg()},
        }  # fmt: skip


METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Api:
    """Fast raw writes: `kubectl proxy` once, then plain HTTP from a few threads."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(["kubectl", "proxy", "--port=0"], env=env, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r":(\d+)", self._process.stdout.readline())
        assert found is not None
        self._root = f"http://127.0.0.1:{found[1]}"
        self._pool = ThreadPoolExecutor(16)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._process.terminate()
        self._process.wait(timeout=10)

    def create_all(self, path: str, bodies: list[dict[str, Any]]) -> None:
        """POST them, sixteen at a time."""
        list(self._pool.map(lambda b: self._send("POST", path, b), bodies))

    def count(self, path: str, selector: str) -> int:
        """How many objects match; only their metadata travels, from the API server's cache."""
        return len(self._send("GET", f"{path}?labelSelector={selector}&resourceVersion=0", None)["items"])

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json", "Accept": METADATA_ONLY if body is None else "application/json"}
        request = urllib.request.Request(self._root + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer


PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
JOBS = f"/apis/disttrain.dev/v1alpha1/namespaces/{NAMESPACE}/disttrainjobs"


def raw_round(api: Api, number: int, pods: int) -> float:
    """Pods per second that this API server takes from a client that does nothing else."""
    spec = {"containers": [{"name": "c", "image": "none"}], "nodeSelector": {"type": "kwok"}, "tolerations": TOLERATION}
    bodies = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"raw-{number}-{i}", "labels": {"raw": str(number)}},
            "spec": spec,
        }
        for i in range(pods)
    ]
    started = time.monotonic()
    api.create_all(PODS, bodies)
    return pods / (time.monotonic() - started)


def our_round(api: Api, number: int, jobs: int, workers: int) -> float:
    """Pods per second from the first job's creation to the last pod's."""
    bodies = [a_job(f"j{number}-{i}".replace("_", "-"), workers) for i in range(jobs)]
    started, wanted = time.monotonic(), (number + 1) * jobs * workers
    api.create_all(JOBS, bodies)
    wait_until(lambda: api.count(PODS, "disttrain.dev/job") >= wanted, 600)
    return jobs * workers / (time.monotonic() - started)


def a_job(name: str, workers: int) -> dict[str, Any]:
    """On fake nodes."""
    spec = {
        "image": "none", "command": ["python", "train.py"], "workers": workers, "nodeSelector": {"type": "kwok"}, "tolerations": TOLERATION,
    }  # fmt: skip
    return {"apiVersion": "disttrain.dev/v1alpha1", "kind": "DistTrainJob", "metadata": {"name": name}, "spec": spec}


def metrics() -> str:
    """The operator's own page; empty while it starts."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{HEALTH_PORT}/metrics", timeout=10) as reply:
            text: str = reply.read().decode()
            return text
    except OSError:
        return ""


def metric(name: str) -> float:
    """One value without labels."""
    found = re.search(rf"^{name} (\S+)$", metrics(), re.MULTILINE)
    return float(found[1]) if found else -1.0


def writes() -> dict[str, float]:
    """Requests that change something, by verb and resource, as the operator counts them."""
    found: dict[str, float] = {}
    for labels, value in re.findall(r"^disttrain_api_requests_total\{(.*)\} (\S+)$", metrics(), re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named["verb"].upper() in (*WRITES, "CREATE", "UPDATE"):
            key = f"{named['verb']} {named['resource']} {named['code']}"
            found[key] = found.get(key, 0) + float(value)
    return found


def wait_until(look: Any, timeout: float) -> None:
    """Raises SystemExit when it does not come true."""
    end = time.monotonic() + timeout
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"not within {timeout:.0f} s; see {OUT / 'scale-operator.log'}")
        time.sleep(0.2)


def write(found: dict[str, Any]) -> None:
    """JSON, a plot, and the few numbers that matter."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (OUT / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    rounds = range(1, len(found["memory_mib"]) + 1)
    per = found["jobs"] / len(found["memory_mib"])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    left.plot([r * per for r in rounds], found["raw_pods_per_second"], "o-", label="raw client (the machine's limit)")
    left.plot([r * per for r in rounds], found["operator_pods_per_second"], "o-", label="operator")
    left.set(xlabel="jobs so far", ylabel="pods per second", ylim=(0, None))
    left.legend()
    right.plot([0, *(r * per for r in rounds)], [found["memory_mib_empty"], *found["memory_mib"]], "o-")
    right.set(xlabel="jobs", ylabel="operator memory, MiB", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(OUT / "scale.png", dpi=110)
    raw, ours = statistics.median(found["raw_pods_per_second"]), statistics.median(found["operator_pods_per_second"])
    share = ours / raw * found["writes_per_job"] / found["workers"]
    say(f"raw client {raw:.0f} pods/s and nothing else, operator {ours:.0f} pods/s with all that a job needs")
    say(f"in writes per second the operator reaches {share:.2f} of the raw client (medians)")
    say(
        f"memory {found['memory_mib_at_rest']:.0f} MiB with {found['jobs']} jobs of {found['workers']} pods (empty: {found['memory_mib_empty']:.0f})"
    )
    say(
        f"writes per job {found['writes_per_job']:.1f}; at rest for {found['idle_seconds']} s: {found['idle_writes'] or 'none'}"
    )


if __name__ == "__main__":
    main()
