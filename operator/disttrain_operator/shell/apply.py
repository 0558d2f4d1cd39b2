"""Does what a plan asks for. Everything here may have been done before, by a pass that died or whose reply was lost: what is
already as wanted is success. One failure does not stop the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from disttrain_contract import names
from disttrain_contract.messages import Assignment
from disttrain_operator.core.actions import (
    Action,
    Assign,
    CreateClaim,
    CreatePod,
    CreateService,
    DeleteJob,
    DeletePod,
    describe,
)
from disttrain_operator.core.model import ClaimSpec, Job
from disttrain_operator.manifests import claim, pod, service
from disttrain_operator.manifests.errors import SpecError
from disttrain_operator.manifests.meta import controller_uid
from disttrain_operator.manifests.pod import Stream
from disttrain_operator.shell.cache import Cache
from disttrain_operator.shell.errors import AlreadyExists, ClusterError, Conflict, NotFound
from disttrain_operator.shell.kinds import CLAIMS, JOBS, PODS, SERVICES, Api, Raw
from disttrain_operator.shell.lookups import Lookups
from disttrain_operator.shell.observe_pod import pod as observe_pod


@dataclass(frozen=True, slots=True)
class Problem:
    """An action that was not done."""

    action: Action
    error: Exception

    @property
    def sentence(self) -> str:
        """For events and logs."""
        return f"cannot {describe(self.action)}: {self.error}"


@dataclass(frozen=True, slots=True)
class Applier:
    """Writes children, and takes what the API server answers into the cache at once."""

    api: Api
    cache: Cache
    lookups: Lookups
    assign: Callable[[str, Assignment], object]
    stream: Callable[[], Stream]

    def tell(self, actions: Iterable[Action]) -> None:
        """What agents are told costs no request, and is not told twice: it may be said ahead of the rest."""
        for action in actions:
            if isinstance(action, Assign):
                self.assign(action.pod_uid, action.assignment)

    async def apply(self, job: Job, actions: Iterable[Action], now: datetime) -> tuple[Problem, ...]:
        """Service and claim first: pods that wait for a claim are tried again by the scheduler only after a while."""
        found = tuple(actions)
        first = [a for a in found if isinstance(a, CreateService | CreateClaim)]
        rest = [a for a in found if not isinstance(a, CreateService | CreateClaim)]
        problems: list[Problem | None] = []
        for stage in (first, rest):
            problems += await asyncio.gather(*(self._try(job, action, now) for action in stage))
        return tuple(p for p in problems if p is not None)

    async def _try(self, job: Job, action: Action, now: datetime) -> Problem | None:
        try:
            await self._do(job, action, now)
        except (ClusterError, SpecError) as error:
            return Problem(action, error)
        return None

    async def _do(self, job: Job, action: Action, now: datetime) -> None:
        match action:
            case CreateService():
                await self._create_service(job)
            case CreateClaim(wanted):
                await self._create_claim(job, wanted)
            case CreatePod():
                await self._create_pod(job, action, now)
            case DeletePod(name, uid, force):
                await self._delete_pod(job, name, uid, force)
            case Assign(pod_uid, assignment):
                self.assign(pod_uid, assignment)
            case DeleteJob():
                await self._delete_job(job)
            case _:
                assert_never(action)

    async def _create_service(self, job: Job) -> None:
        try:
            await self.api.create(SERVICES, service.service(job))
        except AlreadyExists:  # whose it is, the next look says
            self.lookups.changed(job)
        else:
            self.lookups.service_made(job)

    async def _create_claim(self, job: Job, wanted: ClaimSpec) -> None:
        with suppress(AlreadyExists):
            await self.api.create(CLAIMS, claim.claim(job, wanted))
        self.lookups.changed(job)

    async def _create_pod(self, job: Job, wanted: CreatePod, now: datetime) -> None:
        index = wanted.index
        try:
            body = pod.pod(job, index, wanted.incarnation, self.stream(), wanted.avoid)
            made = await self.api.create(PODS, body)
        except AlreadyExists:
            made = await self.api.get(PODS, job.namespace, names.pod_name(job.name, index))
        if self.cache.pod_seen(made) != (job.namespace, job.name):
            self._stranger(job, index, made, now)

    def _stranger(self, job: Job, index: int, found: Raw, now: datetime) -> None:
        """A pod without our label took the name: no watch will show it, so it is remembered here."""
        stranger = replace(observe_pod(found), index=index, foreign=controller_uid(found) != job.uid)
        self.lookups.stranger((job.namespace, job.name), stranger, now)

    async def _delete_pod(self, job: Job, name: str, uid: str, force: bool) -> None:
        try:
            left = await self.api.delete(PODS, job.namespace, name, uid, grace=0 if force else None)
        except (NotFound, Conflict):  # gone, and perhaps another has its name by now
            left = None
        if left is None or (force and not left.get("metadata", {}).get("finalizers")):
            self.cache.pod_gone(uid)
        else:
            self.cache.pod_seen(left)

    async def _delete_job(self, job: Job) -> None:
        try:
            await self.api.delete(JOBS, job.namespace, job.name, job.uid)
        except (NotFound, Conflict):
            self.cache.job_gone(job.uid)
