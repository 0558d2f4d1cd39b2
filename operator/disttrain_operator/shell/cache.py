"""What the watches have told, and what our own writes have answered: jobs and worker pods, stripped to what is planned by.

A watch may be behind our own writes. Between two sights of an object the newer one is kept: API servers count resource
versions up (documented as comparable since Kubernetes 1.35, true before); where they are not numbers, the last sight wins.
Nothing unsafe hangs on it: status writes carry the resourceVersion, deletes the UID, creates a name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from disttrain_operator.core.model import Job, NodeFailure, Pod
from disttrain_operator.manifests import raw
from disttrain_operator.manifests.meta import controller_uid
from disttrain_operator.shell import observe
from disttrain_operator.shell.kinds import Raw
from disttrain_operator.shell.observe_pod import pod as observe_pod

Key = tuple[str, str]
"""Namespace and job name."""

TOMBSTONES = 4096
"""Deleted UIDs that are remembered: the answer to a write of ours may arrive after the news that its object is gone."""


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job and the version of it that was seen."""

    job: Job
    version: str


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod, who owns it, and the version of it that was seen."""

    pod: Pod
    owner: str | None
    version: str


class Cache:
    """Only the handlers, the reconciler's own writes, and the resync change it."""

    def __init__(self) -> None:
        self._jobs: dict[Key, SeenJob] = {}
        self._pods: dict[Key, dict[str, SeenPod]] = {}
        self._key_of_pod: dict[str, Key] = {}
        self._key_of_job: dict[str, Key] = {}
        self._node_failures: dict[str, tuple[NodeFailure, ...]] = {}
        """By the UID of the job that has recorded them; most jobs have none."""
        self._gone: OrderedDict[str, None] = OrderedDict()

    def job(self, key: Key) -> SeenJob | None:
        """The job as last seen."""
        return self._jobs.get(key)

    def jobs(self) -> Iterator[SeenJob]:
        """All of them."""
        return iter(self._jobs.values())

    def node_failures(self, but: str = "") -> tuple[tuple[NodeFailure, ...], ...]:
        """What each job, but the one of that UID, has recorded against nodes."""
        return tuple(failures for uid, failures in self._node_failures.items() if uid != but)

    def pods(self, key: Key, owner: str) -> tuple[Pod, ...]:
        """The pods that carry the job's label; those that the job does not own are marked as foreign."""
        seen = self._pods.get(key, {}).values()
        return tuple(s.pod if s.owner == owner else replace(s.pod, foreign=True) for s in seen)

    def key_of_pod(self, uid: str) -> Key | None:
        """Whose worker a pod is."""
        return self._key_of_pod.get(uid)

    def has_met(self, uid: str) -> bool:
        """Whether the job or pod of that UID was ever seen, be it gone since."""
        return uid in self._key_of_pod or uid in self._key_of_job or uid in self._gone

    def job_versions(self) -> dict[str, str]:
        """UID → version."""
        return {s.job.uid: s.version for s in self._jobs.values()}

    def pod_versions(self) -> dict[str, str]:
        """UID → version."""
        return {s.pod.uid: s.version for pods in self._pods.values() for s in pods.values()}

    def job_seen(self, found: Raw, *, certain: bool = False) -> Key:
        """Take a sight of a job, unless a newer one is known. A `certain` one is how it is now, whatever was known: versions go
        back when etcd is restored from a backup."""
        key, uid, version = _identity(found, "name")
        known = self._jobs.get(key)
        if uid not in self._gone and (certain or known is None or not is_older(version, known.version)):
            if known is not None and known.job.uid != uid:
                self._key_of_job.pop(known.job.uid, None)
                self._node_failures.pop(known.job.uid, None)
            self._jobs[key] = seen = SeenJob(observe.job(found, known.job if known is not None else None), version)
            self._key_of_job[uid] = key
            self._take_failures(seen.job)
        return key

    def job_gone(self, uid: str) -> Key | None:
        """It does not exist any more; a successor of the same name stays. Returns which it was, when that is known."""
        self._bury(uid)
        self._node_failures.pop(uid, None)
        key = self._key_of_job.pop(uid, None)
        if key is not None:
            del self._jobs[key]
        return key

    def _take_failures(self, job: Job) -> None:
        if job.status.node_failures:
            self._node_failures[job.uid] = job.status.node_failures
        else:
            self._node_failures.pop(job.uid, None)

    def pod_seen(self, found: Raw) -> Key | None:
        """Take a sight of a pod, unless a newer one is known. None: it carries no job's label."""
        job = observe.job_of(found)
        if job is None:
            return None
        (namespace, name), uid, version = _identity(found, "name")
        key = (namespace, job)
        pods = self._pods.setdefault(key, {})
        known = pods.get(name)
        if uid not in self._gone and (known is None or not is_older(version, known.version)):
            if known is not None and known.pod.uid != uid:
                self._key_of_pod.pop(known.pod.uid, None)
            pods[name] = SeenPod(observe_pod(found), controller_uid(found), version)
            self._key_of_pod[uid] = key
        return key

    def pod_gone(self, uid: str) -> Key | None:
        """It does not exist any more. Returns whose it was, when that is known."""
        self._bury(uid)
        key = self._key_of_pod.pop(uid, None)
        if key is None:
            return None
        left = {name: s for name, s in self._pods.get(key, {}).items() if s.pod.uid != uid}
        if left:
            self._pods[key] = left
        else:
            self._pods.pop(key, None)
        return key

    def _bury(self, uid: str) -> None:
        self._gone[uid] = None
        while len(self._gone) > TOMBSTONES:
            self._gone.popitem(last=False)


def _identity(found: Raw, name: str) -> tuple[Key, str, str]:
    meta = raw.obj(found, "metadata")
    key = (raw.text(meta, "namespace") or "", raw.text(meta, name) or "")
    return key, raw.text(meta, "uid") or "", raw.text(meta, "resourceVersion") or ""


def is_older(version: str, known: str) -> bool:
    """Whether `version` certainly came before `known`."""
    return version.isdecimal() and known.isdecimal() and int(version) < int(known)
