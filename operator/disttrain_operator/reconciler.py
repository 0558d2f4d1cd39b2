"""One pass over one job: observe, plan, write the status, say it, act. It knows the order and decides nothing.

The order makes a crash at any point harmless: the status is written first and only over the version that was planned from;
what a plan asks for next to it can be asked for again by anybody who sees the same world.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from disttrain_contract import labels
from disttrain_operator.channel.hub import AgentView as Heard
from disttrain_operator.core.actions import CreatePod, Event, Plan
from disttrain_operator.core.admission import OUR_NAME
from disttrain_operator.core.finish import is_finished
from disttrain_operator.core.model import AgentView, Job, Pod, World
from disttrain_operator.core.plan import plan
from disttrain_operator.core.timing import earliest
from disttrain_operator.manifests import pacing, status
from disttrain_operator.manifests.errors import SpecError
from disttrain_operator.shell import logs, observe_agent
from disttrain_operator.shell.apply import Applier, Problem
from disttrain_operator.shell.cache import Cache, Key, SeenJob
from disttrain_operator.shell.errors import ClusterError, Conflict, NotFound, Refused
from disttrain_operator.shell.kinds import JOBS, Api, Raw
from disttrain_operator.shell.lookups import Children, Lookups
from disttrain_operator.shell.metrics import Metrics
from disttrain_operator.shell.recorder import Recorder

AT_ONCE = 0.0


class NotLeading(ClusterError):
    """The lease ran out while a pass was under way: this process may write nothing more."""


class Unfinished(ClusterError):
    """Some actions of a pass were not done: the pass is made again, with back-off."""


@dataclass(frozen=True, slots=True)
class Said:
    """Events of a status write, the version that it made, and when."""

    events: tuple[Event, ...]
    version: str
    at: datetime


@dataclass(slots=True)
class Memory:
    """What is remembered of a job between passes. All of it may be lost."""

    written: datetime | None = None
    pace: pacing.Pace | None = None
    refused: str | None = None
    """Why the API server would not make a pod, at the last pass."""
    unsaid: tuple[Said, ...] = ()
    """What was written, and is to be said by the pass that acts on it: agents wait for that pass."""


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """`reconcile` is the queue's handler."""

    api: Api
    cache: Cache
    lookups: Lookups
    applier: Applier
    recorder: Recorder
    metrics: Metrics
    heard: Callable[[str], Heard]
    """What the stream knows of a pod's agent, by the pod's UID."""
    leading_seconds: Callable[[], float | None]
    """How long agents have been let in."""
    is_leader: Callable[[], bool]
    now: Callable[[], datetime]
    trusted: frozenset[str] = frozenset()
    """Nodes whose marks are ignored."""
    _memory: dict[Key, Memory] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """Seconds until the job is due again; None: at the next event."""
        seen = self.cache.job(key)
        if seen is None:
            self._memory.pop(key, None)
            self.lookups.forget(key)
            return None
        if seen.job.deleting or seen.job.spec.managed_by not in (None, OUR_NAME):
            return None
        logs.add(incarnation=seen.job.status.incarnation)
        return await self._pass(key, seen)

    async def _pass(self, key: Key, seen: SeenJob) -> float | None:
        now = self.now()
        self._check()
        pods = self.cache.pods(key, seen.job.uid) + self.lookups.strangers(key, now)
        if (wait := self._redial_seconds(seen.job, pods)) is not None:
            return wait
        children, memory = await self._children(key, seen.job, now), self._memory.setdefault(key, Memory())
        answer = plan(self._world(seen.job, pods, children, memory), now)
        memory.pace = pacing.follow(memory.pace, answer.status, now)
        due = pacing.write_due(seen.job.status, answer.status, memory.written, now)
        if pacing.same_intent(seen.job.status, answer.status):
            self._check()
            self.applier.tell(answer.actions)  # all that it rests on is written: nobody need wait for the rest
        if due is not None and due <= now:
            version, due = await self._write(seen, answer, memory, now), None
            if version is None:
                return AT_ONCE
            memory.unsaid += (Said(answer.events, version, now),)
            if answer.wake_at == now and not answer.actions:
                return AT_ONCE
        self._check()
        problems, _ = await asyncio.gather(
            self.applier.apply(seen.job, answer.actions, now), self._tell_people(seen.job, memory)
        )
        memory.refused = _refusal(problems)
        await self._say(seen.job, children, problems, now)
        return self._again(earliest(answer.wake_at, due, self.lookups.recheck(key)), now)

    def _check(self) -> None:
        if not self.is_leader():
            raise NotLeading("not the leader any more")

    def _redial_seconds(self, job: Job, pods: Sequence[Pod]) -> float | None:
        """Right after this operator began to lead: how long to wait for agents that have not dialled yet."""
        left = observe_agent.REDIAL_SECONDS - (self.leading_seconds() or 0.0)
        if left > 0 and any(observe_agent.is_awaited(job, p) and self.heard(p.uid).report is None for p in pods):
            return left
        return None

    async def _children(self, key: Key, job: Job, now: datetime) -> Children | None:
        """None: nothing depends on them, for the job has ended or rests."""
        if is_finished(job.status) or job.spec.suspend:
            self.lookups.forget(key)
            return None
        return await self.lookups.children(job, now)

    def _world(self, job: Job, pods: Sequence[Pod], children: Children | None, memory: Memory) -> World:
        return World(
            job=job,
            pods=tuple(replace(p, agent=self._agent(job, p)) for p in pods),
            claim=children.claim if children is not None else None,
            service_exists=children is None or children.service_exists,
            refused=memory.refused,
            others=self.cache.node_failures(but=job.uid),
            trusted=self.trusted,
        )

    def _agent(self, job: Job, pod: Pod) -> AgentView | None:
        heard = self.heard(pod.uid)
        return observe_agent.agent(heard) or observe_agent.never_heard(job, pod, self.leading_seconds() or 0.0)

    async def _write(self, seen: SeenJob, answer: Plan, memory: Memory, now: datetime) -> str | None:
        """The version that was made. None: somebody wrote in between, or the job is gone; the cache has the news."""
        job = seen.job
        eta = pacing.eta_seconds(memory.pace, answer.status, now)
        body = status_body(job, seen.version, status.to_wire(answer.status, eta_seconds=eta))
        try:
            written = await self.api.replace(JOBS, body, "status")
        except (Conflict, NotFound):
            await self._look_again(job)
            return None
        self.cache.job_seen(written)
        memory.written = now
        logs.add(incarnation=answer.status.incarnation)
        self.metrics.transition(job.status, answer.status)
        return str(written.get("metadata", {}).get("resourceVersion", ""))

    async def _tell_people(self, job: Job, memory: Memory) -> None:
        while memory.unsaid:
            said, *rest = memory.unsaid
            memory.unsaid = tuple(rest)
            await self.recorder.transition(job, said.events, said.version, said.at)

    async def _look_again(self, job: Job) -> None:
        try:
            self.cache.job_seen(await self.api.get(JOBS, job.namespace, job.name), certain=True)
        except NotFound:
            self.cache.job_gone(job.uid)

    async def _say(self, job: Job, children: Children | None, problems: Sequence[Problem], now: datetime) -> None:
        for note in children.notes if children is not None else ():
            await self.recorder.problem(job, "NameConflict", note, now)
        for problem in problems:
            # A person must act; the rest mends itself. What is refused of a pod, a condition says.
            if isinstance(problem.error, Refused | SpecError) and not isinstance(problem.action, CreatePod):
                await self.recorder.problem(job, "ActionRefused", problem.sentence, now)
        if problems:
            hints = [p.error.retry_after for p in problems if isinstance(p.error, ClusterError) and p.error.retry_after]
            raise Unfinished("; ".join(p.sentence for p in problems), retry_after=max(hints, default=None))

    def _again(self, at: datetime | None, now: datetime) -> float | None:
        return max(0.0, (at - now).total_seconds()) if at is not None else None


def _refusal(problems: Sequence[Problem]) -> str | None:
    refused = (p for p in problems if isinstance(p.action, CreatePod) and isinstance(p.error, Refused | SpecError))
    return next((p.sentence for p in refused), None)


def status_body(job: Job, version: str, wire: Raw) -> Raw:
    """All that a write to /status needs: the server keeps the rest. The version makes it fail if anything was written since."""
    return {
        "apiVersion": labels.API_VERSION,
        "kind": labels.KIND,
        "metadata": {"name": job.name, "namespace": job.namespace, "uid": job.uid, "resourceVersion": version},
        "status": wire,
    }
