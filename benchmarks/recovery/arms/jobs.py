"""The same trainer on JobSet, and on a plain Indexed Job: what a team would use without an operator for training.

The real job and garbage-collector controllers, and the real JobSet controller, on the same kind of API server as the
`disttrain` arm, with the same played kubelet. A pod's script is that of the `torchrun` arm, started once per pod; the pods meet at
the first one's address.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.recovery.arms.arm import RANKS, Run, end
from benchmarks.recovery.arms.kubelet import COMPLETION_INDEX, address
from benchmarks.recovery.arms.server import NAMESPACE, api_server, delete_pod, kubelet, missing
from dev.cluster.paths import current_paths

from channel.rig import make_certificates
from support.own_apiserver import ApiServer, _free_ports

JOBSET = Path.home() / ".cache" / "disttrain-bench" / "bin" / "jobset"
JOBSET_CRD = "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"
RESTARTS = 1_000_000
PORT = 29400


def job_spec(run: Run, backoff_limit: int) -> dict[str, Any]:
    """Three pods that know their place."""
    told = run.environment() | {"MASTER_ADDR": address(0), "MASTER_PORT": str(PORT), "WORLD_SIZE": str(RANKS)}
    field = {"fieldRef": {"fieldPath": f"metadata.annotations['{COMPLETION_INDEX}']"}}
    environment = [*({"name": k, "value": v} for k, v in told.items()), {"name": "RANK", "valueFrom": field}]
    container = {
        "name": "trainer", "image": "none", "command": ["python", "-m", "benchmarks.recovery.arms.torchrun_script"],
        "env": environment, "securityContext": RESTRICTED,
    }  # fmt: skip
    pod = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    return {
        "completions": RANKS, "parallelism": RANKS, "completionMode": "Indexed", "backoffLimit": backoff_limit,
        "template": {"metadata": {"labels": {"bench": "pod"}}, "spec": pod},
    }  # fmt: skip


RESTRICTED = {
    "allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


class Job:
    """A plain Indexed Job: each pod is replaced by itself, after the Job controller's back-off (10 s, doubling)."""

    name = "job"

    def missing(self) -> str | None:
        """The API server is built by `make cluster-up`."""
        return missing()

    @contextmanager
    def train(self, run: Run) -> Iterator[_Group]:
        """API server, controllers, kubelet, one Job."""
        with control_plane(run) as server:
            meta = {"name": "bench", "namespace": NAMESPACE}
            server.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": job_spec(run, RESTARTS)})
            yield _Group(server)


class JobSet:
    """JobSet with its Recreate strategy: a pod that fails, fails its Job at once, and all Jobs are made again."""

    name = "jobset"

    def missing(self) -> str | None:
        """See README.md."""
        return missing() or (
            None if JOBSET.exists() and _crd() else f"no {JOBSET}: benchmarks/recovery/README.md says how it is built"
        )

    @contextmanager
    def train(self, run: Run) -> Iterator[_Group]:
        """The same, and the JobSet controller."""
        crd = _crd()
        assert crd is not None
        with control_plane(run) as server, ExitStack() as stack:
            server.kubectl("apply", "--server-side", "-f", str(crd))
            server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            stack.enter_context(_controller(server, run))
            job = {"name": "w", "replicas": 1, "groupName": "default", "template": {"spec": job_spec(run, 0)}}
            spec = {
                "failurePolicy": {"maxRestarts": RESTARTS, "restartStrategy": "Recreate"}, "replicatedJobs": [job],
                "network": {"enableDNSHostnames": False},
                "successPolicy": {"operator": "All"}, "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            }  # fmt: skip
            meta = {"name": "bench", "namespace": NAMESPACE}
            server.apply({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": meta, "spec": spec})
            yield _Group(server)


class _Group:
    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def facts(self) -> Mapping[str, Any]:
        return {}

    def alive(self) -> bool:
        return True

    def delete_pod(self, rank: int, pid: int) -> None:
        """The pod that is this rank now."""
        found = self._server.kubectl(
            "get", "pods", "-n", NAMESPACE, "-l", f"{COMPLETION_INDEX}={rank}", "--field-selector=status.phase=Running", "-o", "name"
        )  # fmt: skip
        delete_pod(self._server, found.split()[-1].removeprefix("pod/"))


@contextmanager
def control_plane(run: Run) -> Iterator[ApiServer]:
    """API server, the two controllers that Jobs need, kubelet."""
    manager = [
        str(current_paths().bin / "kube-controller-manager"), "--leader-elect=false", "--secure-port=0",
        "--controllers=job-controller,garbage-collector-controller", "--kube-api-qps=200", "--kube-api-burst=400",
    ]  # fmt: skip
    with api_server(run) as server:
        config = f"--kubeconfig={server.kubeconfig('admin')}"
        with _program([*manager, config], run.folder / "controller-manager.log"), kubelet(server, run):
            yield server


@contextmanager
def _controller(server: ApiServer, run: Run) -> Iterator[None]:
    """JobSet's own. Its webhooks only set defaults and refuse mistakes, and are not registered; it wants certificates."""
    ports = _free_ports(3)
    both = make_certificates(run.folder).chain  # key and certificate in one file
    for part in ("webhook", "metrics"):
        (run.folder / part).mkdir()
        for name in ("tls.crt", "tls.key"):
            shutil.copy(both, run.folder / part / name)
    config = run.folder / "jobset.yaml"
    config.write_text(
        "apiVersion: config.jobset.x-k8s.io/v1alpha1\nkind: Configuration\n"
        "leaderElection: {leaderElect: false}\ninternalCertManagement: {enable: false}\n"
        f"webhook: {{port: {ports[0]}, host: 127.0.0.1, certDir: {run.folder / 'webhook'}}}\n"
        f"metrics: {{bindAddress: '127.0.0.1:{ports[1]}', certDir: {run.folder / 'metrics'}}}\n"
        f"health: {{healthProbeBindAddress: '127.0.0.1:{ports[2]}'}}\n"
    )
    argv = [str(JOBSET), f"--config={config}", f"--kubeconfig={server.kubeconfig('admin')}"]
    with _program(argv, run.folder / "jobset.log"):
        yield


@contextmanager
def _program(argv: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        started = subprocess.Popen(argv, stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        end(started)


def _crd() -> Path | None:
    """From the module that the controller was built from."""
    found = sorted(JOBSET.parent.parent.glob(f"gopath/pkg/mod/sigs.k8s.io/jobset@*/{JOBSET_CRD}"))
    return found[-1] if found else None
