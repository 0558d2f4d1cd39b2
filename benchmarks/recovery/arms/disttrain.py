"""disttrain: the real operator process on a real kube-apiserver and etcd, with a real agent for each pod.

Only the kubelet is played (see `kubelet.py`). What is measured goes through agent, stream, operator, API server and back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.recovery.arms.arm import RANKS, THREADS, Run, source_path
from benchmarks.recovery.arms.server import NAMESPACE, api_server, delete_pod, kubelet, missing

from support.operator_process import OperatorProcess
from support.own_apiserver import ApiServer

JOB = "bench"
STEPS = 10**6
"""More than anybody waits for."""
START_SECONDS = 60


class Disttrain:
    """Our own."""

    def __init__(self, standby: int = 0) -> None:
        self._standby = standby
        self.name = f"disttrain, {standby} standby" if standby else "disttrain"

    def missing(self) -> str | None:
        """The API server is built by `make cluster-up`."""
        return missing()

    @contextmanager
    def train(self, run: Run) -> Iterator[_Group]:
        """API server, operator, kubelet, job; nothing of it is left to run beside the other arms."""
        with api_server(run) as server:
            operator = OperatorProcess(server, run.folder)
            try:
                _wait_for_leader(operator)
                with kubelet(server, run):
                    server.apply(self._job(run))
                    yield _Group(server, operator)
            finally:
                operator.end()

    def _job(self, run: Run) -> dict[str, Any]:
        environment = THREADS | {"PYTHONPATH": source_path()}
        spec = {
            "image": "none", "workers": RANKS, "processesPerWorker": 1,
            "entrypoint": "benchmarks.recovery.workload:build",
            "args": [
                f"--megabytes={run.megabytes}", f"--steps={STEPS}", f"--marks={run.marks}",
                f"--digest_every={run.every_steps}",
            ],
            "env": [{"name": k, "value": v} for k, v in environment.items()],
            "checkpoint": {"volume": {"size": "10Gi"}, "everySteps": run.every_steps, "keep": 2},
            "recovery": {"budget": {"failures": 1000}},
        }  # fmt: skip
        if self._standby:
            spec["standby"] = self._standby
        meta = {"name": JOB, "namespace": NAMESPACE}
        return {"apiVersion": "disttrain.dev/v1alpha1", "kind": "DistTrainJob", "metadata": meta, "spec": spec}


class _Group:
    def __init__(self, server: ApiServer, operator: OperatorProcess) -> None:
        self._server, self._operator = server, operator

    @property
    def operator_pid(self) -> int:
        """Of the operator process."""
        return self._operator.process.pid

    def delete_pod(self, rank: int, pid: int) -> None:
        """A standby may have taken the place of the pod that was made for the rank, so its process is asked."""
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        name = next(v for v in environment if v.startswith("DISTTRAIN_POD_NAME=")).partition("=")[2]
        delete_pod(self._server, name)

    def facts(self) -> Mapping[str, Any]:
        """The status: what the operator measured, and where the state came from."""
        status = self._status()
        last = status.get("recovery", {}).get("last", {})
        return {k: last.get(k) for k in ("detectSeconds", "recoverSeconds", "lostSteps", "source", "class")}

    def recoveries(self) -> int:
        """Failures so far, by the status."""
        return int(self._status().get("recovery", {}).get("count", 0))

    def alive(self) -> bool:
        return self._operator.process.poll() is None and self._status().get("state") != "Failed"

    def _status(self) -> dict[str, Any]:
        found = json.loads(self._server.kubectl("get", "dtj", JOB, "-n", NAMESPACE, "-o", "json"))
        status: dict[str, Any] = found.get("status", {})
        return status


def _wait_for_leader(operator: OperatorProcess) -> None:
    end = time.monotonic() + START_SECONDS
    while not operator.leads:
        if time.monotonic() > end or operator.process.poll() is not None:
            raise SystemExit(f"the operator does not lead: {operator.log.read_text()[-2000:]}")
        time.sleep(0.2)
