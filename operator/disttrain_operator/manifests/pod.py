"""A worker pod, under the `restricted` Pod Security Standard whatever the job asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disttrain_contract import labels, names, paths
from disttrain_operator.core.model import Job
from disttrain_operator.manifests import quantity, raw
from disttrain_operator.manifests.errors import SpecError
from disttrain_operator.manifests.meta import Manifest, child_labels, owner
from disttrain_operator.manifests.run import container_env, grace_seconds

AGENT = ["python", "-m", "disttrain_runtime.agent"]
"""Over the image's own entry point. `python` by PATH: the image says which one has torch."""
DEFAULT_USER = 1000
"""The trainer image's user."""
DEFAULT_SHARED_MEMORY = "1Gi"
TOKEN_SECONDS = 3600
"""The kubelet renews it at 80 % of this."""
TMP = "/tmp"
MAX_WEIGHT = 100
"""Of a scheduling preference."""
OWN_VOLUMES = frozenset({"checkpoints", "scratch", "shared-memory", "token"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Where agents find the operator."""

    url: str
    ca: str = ""
    """PEM; empty for ws://."""


def pod(job: Job, index: int, incarnation: int, stream: Stream, avoid: Sequence[str] = ()) -> Manifest:
    """Worker `index`, made for `incarnation`, away from nodes that fail jobs. Raises SpecError."""
    template = raw.obj(job.raw_spec, "podTemplate")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": names.pod_name(job.name, index),
            "namespace": job.namespace,
            "labels": raw.strings(template, "labels")
            | child_labels(job)
            | {
                labels.WORKER_INDEX: str(index),
                labels.INCARNATION: str(incarnation),
                labels.COMPONENT: "worker",
            },
            "annotations": raw.strings(template, "annotations")
            | {labels.JOB_UID: job.uid, labels.SPEC_GENERATION: str(job.generation)},
            "ownerReferences": [owner(job)],
        },
        "spec": _spec(job, index, stream, template, avoid),
    }


def _spec(job: Job, index: int, stream: Stream, template: Mapping[str, Any], avoid: Sequence[str]) -> Manifest:
    name = names.pod_name(job.name, index)
    spec: Manifest = {
        "restartPolicy": "Never",
        "hostname": name,
        "subdomain": names.service_name(job.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(job),
        "securityContext": _security(raw.obj(template, "securityContext")),
        "containers": [_container(job, name, index, stream, template)],
        "volumes": [*_own_volumes(job), *(_volume(v, i) for i, v in _users_volumes(job))],
    }
    return spec | dict(_scheduling(job, template, avoid))


def _scheduling(job: Job, template: Mapping[str, Any], avoid: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What is passed on as it is, when it is there."""
    if selector := raw.strings(job.raw_spec, "nodeSelector"):
        yield "nodeSelector", selector
    if tolerations := [dict(t) for t in raw.objects(job.raw_spec, "tolerations")]:
        yield "tolerations", tolerations
    if priority := raw.text(job.raw_spec, "priorityClassName"):
        yield "priorityClassName", priority
    if affinity := _affinity(raw.obj(template, "affinity"), avoid):
        yield "affinity", affinity
    for key in ("schedulerName", "runtimeClassName", "serviceAccountName"):
        if value := raw.text(template, key):
            yield key, value
    if secrets := raw.items(template, "imagePullSecrets"):
        yield "imagePullSecrets", [{"name": str(s)} for s in secrets]


def _affinity(chosen: Mapping[str, Any], avoid: Sequence[str]) -> Manifest:
    """The job's own, and a preference of the highest weight against nodes that fail jobs. Never a requirement: a job on one
    node must still train, and autoscalers make no node for a pod that is bound to names."""
    if not avoid:
        return dict(chosen)
    nodes = raw.obj(chosen, "nodeAffinity")
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    # By name, not by the hostname label, which may differ; the API server takes one name an entry, and all entries must hold.
    away = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in avoid]
    term = {"weight": MAX_WEIGHT, "preference": {"matchFields": away}}
    return {**chosen, "nodeAffinity": {**nodes, preferred: [*raw.items(nodes, preferred), term]}}


def _security(chosen: Mapping[str, Any]) -> Manifest:
    user = raw.integer(chosen, "runAsUser") or DEFAULT_USER
    group, volumes = raw.integer(chosen, "runAsGroup"), raw.integer(chosen, "fsGroup")
    context: Manifest = {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group if group is not None else user,
        "fsGroup": volumes if volumes is not None else DEFAULT_USER,
        # Changing the owner of every file of a large volume at each pod start takes minutes.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if more := raw.items(chosen, "supplementalGroups"):
        context["supplementalGroups"] = list(more)
    return context


def _container(job: Job, pod_name: str, index: int, stream: Stream, template: Mapping[str, Any]) -> Manifest:
    container: Manifest = {
        "name": names.CONTAINER,
        "image": raw.required(job.raw_spec, "image", "spec"),
        "command": list(AGENT),
        "env": container_env(job, pod_name, index, operator_url=stream.url, operator_ca=stream.ca),
        "volumeMounts": [*_own_mounts(job), *(_mount(v, i) for i, v in _users_volumes(job))],
        "terminationMessagePath": str(paths.TERMINATION_LOG),
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if policy := raw.text(template, "imagePullPolicy"):
        container["imagePullPolicy"] = policy
    if resources := _resources(job):
        container["resources"] = resources
    return container


def _resources(job: Job) -> Manifest:
    wanted = raw.obj(job.raw_spec, "resources")
    return {
        kind: {str(k): str(v) for k, v in raw.obj(wanted, kind).items()}
        for kind in ("requests", "limits")
        if raw.obj(wanted, kind)
    }


def shared_memory(job: Job) -> str:
    """As asked for; else half the memory limit, for it counts against that limit; else 1Gi (the runtime's own is 64 MiB)."""
    asked = job.raw_spec.get("sharedMemory")
    if isinstance(asked, str | int):
        return str(asked)
    limit = quantity.parse(raw.obj(raw.obj(job.raw_spec, "resources"), "limits").get("memory"))
    return quantity.mebibytes(int(limit) // 2) if limit is not None else DEFAULT_SHARED_MEMORY


def _own_volumes(job: Job) -> Iterator[Manifest]:
    if job.spec.claim is not None:
        yield {"name": "checkpoints", "persistentVolumeClaim": {"claimName": job.spec.claim.name}}
    yield {"name": "scratch", "emptyDir": {}}
    yield {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory(job)}}
    token = {"path": paths.TOKEN_FILE.name, "audience": names.TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS}
    yield {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}}


def _own_mounts(job: Job) -> Iterator[Manifest]:
    if job.spec.claim is not None:
        yield {"name": "checkpoints", "mountPath": str(paths.CHECKPOINT_MOUNT)}
    yield {"name": "scratch", "mountPath": str(paths.SCRATCH)}
    yield {"name": "scratch", "mountPath": TMP, "subPath": "tmp"}
    yield {"name": "shared-memory", "mountPath": str(paths.SHARED_MEMORY)}
    yield {"name": "token", "mountPath": str(paths.TOKEN_DIR), "readOnly": True}


def _users_volumes(job: Job) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return enumerate(raw.objects(job.raw_spec, "volumes"))


def _volume(spec: Mapping[str, Any], i: int) -> Manifest:
    path = f"spec.volumes[{i}]"
    name = raw.required(spec, "name", path)
    if name in OWN_VOLUMES:
        raise SpecError(path, f"{name} is the name of a volume of the runtime: choose another")
    for source in ("persistentVolumeClaim", "configMap", "secret", "emptyDir"):
        if isinstance(spec.get(source), Mapping):
            return {"name": name, source: dict(spec[source])}
    raise SpecError(path, "needs one of persistentVolumeClaim, configMap, secret, emptyDir")


def _mount(spec: Mapping[str, Any], i: int) -> Manifest:
    path = f"spec.volumes[{i}]"
    mount: Manifest = {
        "name": raw.required(spec, "name", path),
        "mountPath": raw.required(spec, "mountPath", path),
        "readOnly": spec.get("readOnly") is True,
    }
    if inside := raw.text(spec, "subPath"):
        mount["subPath"] = inside
    return mount
