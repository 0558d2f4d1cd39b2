"""Children that are looked up when a pass needs them instead of being watched: the Service and the claim of a job."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from disttrain_contract import labels, names
from disttrain_operator.core.model import Claim, Job, Pod
from disttrain_operator.manifests import raw
from disttrain_operator.manifests.meta import controller_uid
from disttrain_operator.shell import observe
from disttrain_operator.shell.cache import Key
from disttrain_operator.shell.errors import NotFound
from disttrain_operator.shell.kinds import CLAIMS, SERVICES, Api, Kind, Raw

SETTLED = timedelta(minutes=5)
"""How long a bound claim and a Service are believed: nobody deletes them in a normal life."""
UNSETTLED = timedelta(seconds=5)
"""How long a claim that is missing, pending or going is believed: somebody is waiting for it."""
STRANGER = timedelta(seconds=30)
"""How long an object that has our name without being ours is believed to be still there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """What was found, until when it holds, and what somebody should know about it."""

    service_exists: bool
    claim: Claim | None
    until: datetime
    notes: tuple[str, ...] = ()


class Lookups:
    """A memory with an end. Only namespaced GETs of two names a job; no watch, no list."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._found: dict[Key, tuple[str, Children]] = {}
        self._strangers: dict[Key, dict[str, tuple[Pod, datetime]]] = {}

    async def children(self, job: Job, now: datetime) -> Children:
        """As remembered for this very job, or as they are."""
        key = (job.namespace, job.name)
        uid, known = self._found.get(key, ("", None))
        if known is not None and uid == job.uid and now < known.until:
            return known
        wanted = job.spec.claim
        service, claim = await asyncio.gather(
            self._get(SERVICES, job.namespace, names.service_name(job.name)),
            self._get(CLAIMS, job.namespace, wanted.name) if wanted is not None else _nothing(),
        )
        found = _children(job, service, claim, now)
        self._found[key] = (job.uid, found)
        return found

    def changed(self, job: Job) -> None:
        """Something was made: look again."""
        self._found.pop((job.namespace, job.name), None)

    def service_made(self, job: Job) -> None:
        """Ours, just now: no need to look."""
        key = (job.namespace, job.name)
        uid, known = self._found.get(key, ("", None))
        if known is not None and uid == job.uid:
            claim_settled = job.spec.claim is None or (known.claim is not None and known.claim.phase == "Bound")
            until = known.until + SETTLED if claim_settled else known.until
            self._found[key] = (uid, replace(known, service_exists=True, until=until))

    def stranger(self, key: Key, pod: Pod, now: datetime) -> None:
        """A pod of a worker's name that no watch shows, for it does not carry the job's label."""
        self._strangers.setdefault(key, {})[pod.name] = (pod, now + STRANGER)

    def strangers(self, key: Key, now: datetime) -> tuple[Pod, ...]:
        """Those believed to be still there."""
        still = {name: (pod, until) for name, (pod, until) in self._strangers.get(key, {}).items() if now < until}
        if still:
            self._strangers[key] = still
        else:
            self._strangers.pop(key, None)
        return tuple(pod for pod, _ in still.values())

    def recheck(self, key: Key) -> datetime | None:
        """When the first memory ends."""
        ends = [until for _, until in self._strangers.get(key, {}).values()]
        if key in self._found:
            ends.append(self._found[key][1].until)
        return min(ends, default=None)

    def forget(self, key: Key) -> None:
        """The job is gone or finished."""
        self._found.pop(key, None)
        self._strangers.pop(key, None)

    async def _get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        try:
            return await self._api.get(kind, namespace, name)
        except NotFound:
            return None


async def _nothing() -> None:
    return None


def _children(job: Job, service: Raw | None, claim: Raw | None, now: datetime) -> Children:
    seen = observe.claim(claim) if claim is not None else None
    wanted, notes = job.spec.claim, []
    if service is not None and controller_uid(service) != job.uid:
        notes.append(
            f"Service {job.name} exists and is not this job's: the host names of the workers do not resolve; "
            "rename the job or delete the Service"
        )
    if wanted is not None and wanted.size is not None and claim is not None and not _is_for(job, claim):
        notes.append(f"PersistentVolumeClaim {wanted.name} was not made for this job and is used as it is")
    waiting = service is None or (wanted is not None and (seen is None or seen.phase != "Bound" or seen.deleting))
    until = now + (UNSETTLED if waiting else STRANGER if notes else SETTLED)
    return Children(service_exists=service is not None, claim=seen, until=until, notes=tuple(notes))


def _is_for(job: Job, claim: Raw) -> bool:
    """By label: a claim outlives its job, so that the next job of that name finds it."""
    return raw.strings(raw.obj(claim, "metadata"), "labels").get(labels.JOB) == job.name
