"""spec → what the agents run, and the environment they start in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from disttrain_contract import env, paths
from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig, WorkerEnv
from disttrain_operator.core.model import Job
from disttrain_operator.manifests import quantity, raw
from disttrain_operator.manifests.errors import SpecError
from disttrain_operator.manifests.strategy import strategy_config

DEFAULT_EVERY_SECONDS = 60.0
"""When a job names no cadence: a minute is the most that a failure costs."""
DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' own."""

FROM_THE_POD = {
    env.PREFIX + "POD_UID": "metadata.uid",
    env.PREFIX + "POD_IP": "status.podIP",
    env.PREFIX + "NODE_NAME": "spec.nodeName",
}
"""Known only when the pod is there: the kubelet fills them in."""

HOME_ENV = {
    "HOME": str(paths.SCRATCH),
    "TMPDIR": "/tmp",
    "XDG_CACHE_HOME": str(paths.SCRATCH / ".cache"),
    "TORCHINDUCTOR_CACHE_DIR": str(paths.SCRATCH / ".cache/torchinductor"),
    "TRITON_CACHE_DIR": str(paths.SCRATCH / ".cache/triton"),
    "MPLCONFIGDIR": str(paths.SCRATCH / ".cache/matplotlib"),
    "USER": "trainer",
    "LOGNAME": "trainer",
}
"""The root file system is read-only and the user id has no entry in /etc/passwd: what libraries ask for is said here."""


def run_config(job: Job) -> RunConfig:
    """The spec in the runtime's words."""
    spec = job.raw_spec
    return RunConfig(
        entrypoint=raw.text(spec, "entrypoint"),
        command=tuple(str(c) for c in raw.items(spec, "command")),
        args=tuple(str(a) for a in raw.items(spec, "args")),
        processes_per_worker=job.spec.processes,
        seed=raw.integer(spec, "seed") or 0,
        strategy=strategy_config(raw.obj(spec, "strategy")),
        checkpoint=_checkpoint(job, raw.obj(spec, "checkpoint")),
        evaluation=_evaluation(raw.obj(spec, "evaluation")),
        buddy_every_steps=raw.integer(raw.obj(spec, "recovery"), "buddyEverySteps"),
        hang_timeout_seconds=raw.number(raw.obj(spec, "recovery"), "hangTimeoutSeconds"),
        grace_seconds=float(grace_seconds(job)),
    )


def _checkpoint(job: Job, spec: Mapping[str, Any]) -> CheckpointConfig:
    steps, seconds = raw.integer(spec, "everySteps"), raw.number(spec, "everySeconds")
    if spec and steps is None and seconds is None:  # a job without spec.checkpoint saves nothing
        seconds = DEFAULT_EVERY_SECONDS
    return CheckpointConfig(
        every_steps=steps,
        every_seconds=float(seconds) if seconds is not None else None,
        keep=raw.integer(spec, "keep") or 3,
        asynchronous=spec.get("async") is not False,
        remote=_remote(job, raw.text(spec, "remote")),
    )


def _remote(job: Job, prefix: str | None) -> str | None:
    """A place of the job's own: two namespaces may share a bucket, and a name is unique within a namespace only."""
    return f"{prefix.rstrip('/')}/{job.namespace}/{job.name}" if prefix else None


def _evaluation(spec: Mapping[str, Any]) -> EvaluationConfig:
    early = raw.obj(spec, "earlyStop")
    return EvaluationConfig(
        every_steps=raw.integer(spec, "everySteps"),
        metric=raw.text(spec, "metric"),
        mode=raw.text(spec, "mode") or "min",
        patience=raw.integer(early, "patience"),
        min_delta=float(raw.number(early, "minDelta") or 0.0),
    )


def grace_seconds(job: Job) -> int:
    """Between SIGTERM and SIGKILL."""
    found = raw.integer(raw.obj(job.raw_spec, "podTemplate"), "terminationGracePeriodSeconds")
    return found if found is not None else DEFAULT_GRACE_SECONDS


def container_env(job: Job, pod_name: str, index: int, *, operator_url: str, operator_ca: str) -> list[dict[str, Any]]:
    """The user's variables over ours where they may be, ours over the user's where they must be."""
    contract = WorkerEnv(
        job=job.name,
        job_uid=job.uid,
        namespace=job.namespace,
        pod_name=pod_name,
        pod_uid="",
        pod_ip="",
        node_name="",
        worker_index=index,
        workers=job.spec.workers,
        operator_url=operator_url,
        operator_ca=operator_ca,
        checkpoint_mount=str(paths.CHECKPOINT_MOUNT) if job.spec.claim is not None else "",
        run=run_config(job),
    ).to_env()
    fixed = {name: _literal(name, value) for name, value in contract.items()}
    fixed |= {name: _from_field(name, path) for name, path in FROM_THE_POD.items()}
    defaults = HOME_ENV | {"OMP_NUM_THREADS": str(threads(job)), "PYTHONUNBUFFERED": "1"}
    chosen = {name: _literal(name, value) for name, value in defaults.items()} | _users(job)
    return [*fixed.values(), *chosen.values()]


def _users(job: Job) -> dict[str, dict[str, Any]]:
    found = {}
    for i, variable in enumerate(raw.objects(job.raw_spec, "env")):
        name = raw.required(variable, "name", f"spec.env[{i}]")
        if name in env.RESERVED or name.startswith(env.PREFIX):
            raise SpecError(f"spec.env[{i}]", f"{name} is set by the runtime: remove it")
        found[name] = dict(variable)
    return found


def threads(job: Job) -> int:
    """CPU threads of one rank: its share of the CPU limit, whole and at least one (torchrun's own default is one)."""
    limits = raw.obj(raw.obj(job.raw_spec, "resources"), "limits")
    cpus = quantity.parse(limits.get("cpu"))
    return max(1, int(cpus) // (job.spec.processes or 1)) if cpus is not None else 1


def _literal(name: str, value: str) -> dict[str, Any]:
    # The kubelet expands `$(X)` in a value and turns `$$` into `$`; doubled, everything stays as it was written.
    return {"name": name, "value": value.replace("$", "$$")}


def _from_field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
