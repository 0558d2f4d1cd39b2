"""Faults, made through the Kubernetes API with the caller's own rights: pods deleted or evicted, processes hit by the
module of the trainer's image that knows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from disttrain.sdk import errors, paths
from disttrain.sdk.course import Order, candidates
from disttrain.sdk.execute import Execution
from disttrain.sdk.job import Job, Raw, Worker
from disttrain.sdk.transport import MERGE_PATCH, Request, Transport
from disttrain_contract import labels, names
from disttrain_contract.drill import CONTINUE_RANK, MODULE, Announcement, Exit, Fault

ANSWER_SECONDS = 30.0
"""For a small Python program to start in a container that is busy."""
COMPONENT = ("app.kubernetes.io/component", "operator")
"""The label by which the chart marks the operator's pods."""
RIGHTS = {
    Fault.KILL_RANK: "get and create on pods/exec",
    Fault.STOP_RANK: "get and create on pods/exec",
    Fault.FILL_DISK: "get and create on pods/exec, get on persistentvolumeclaims",
    Fault.KILL_POD: "delete on pods",
    Fault.EVICT: "create on pods/eviction",
    Fault.KILL_OPERATOR: "list on leases.coordination.k8s.io, get and delete on pods, where the operator lives",
}
NO_PARTITION = "a network partition cannot be made through the Kubernetes API: cut a node off where it runs"
PARTITION_HINT = "on the local cluster: python -m dev.cluster partition NODE"


@dataclass(frozen=True, slots=True)
class Made:
    """A fault that was made."""

    where: str
    at: float
    """When, by the monotonic clock."""
    leader: str | None = None
    """The operator that was killed."""
    announced: bool = False
    """The job says that it was a drill."""
    undo: Callable[[], None] = lambda: None
    """Take back what does not pass by itself. Never raises, may be called whatever became of the job."""


class Faults:
    """Makes them. `clock` only goes forward."""

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._clock = clock
        self._announced: Job | None = None

    def make(self, order: Order, job: Job, workers: Sequence[Worker], claim: Raw | None) -> Made:
        """Raises `NotAllowed` with the right that is missing, `BadInput` when there is nothing to hit."""
        try:
            return self._make(order, job, candidates(order, job, workers), claim)
        except errors.NotAllowed as refused:
            hint = f"a drill acts with your own rights; {order.fault} also needs: {RIGHTS[order.fault]}"
            raise errors.NotAllowed(str(refused), status=refused.status, hint=hint) from refused

    def withdraw(self) -> None:
        """Take the announcement of a drill that is over, or was not made, off its job. Never raises."""
        if self._announced is not None:
            with suppress(errors.DisttrainError):
                self._annotate(self._announced, None)
            self._announced = None

    def leader(self, namespace: str) -> str:
        """The pod that leads as operator; empty: none."""
        for lease in self._get(paths.leases(namespace)).get("items") or ():
            holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
            if holder and self._is_operator(namespace, holder):
                return holder
        return ""

    def _make(self, order: Order, job: Job, found: Sequence[Worker], claim: Raw | None) -> Made:
        if order.fault is Fault.PARTITION:
            raise errors.BadInput(NO_PARTITION, hint=PARTITION_HINT)
        if order.fault is Fault.KILL_OPERATOR:
            return self._kill_operator(order.operator_namespace)
        if not found:
            which = "no worker" if order.worker is None else f"no worker {order.worker}"
            raise errors.BadInput(f"{which} of job {job.name} runs now")
        match order.fault:
            case Fault.KILL_POD:
                told = self._announce(order, job, found[0])
                return replace(self._delete(found[0].name, job.namespace, found[0].uid), announced=told)
            case Fault.EVICT:
                told = self._announce(order, job, found[0])
                return replace(self._evict(found[0], job.namespace), announced=told)
            case Fault.FILL_DISK:
                return self._fill(found[0], job, order.seconds, claim)
            case _:
                return self._hit(order, job, found)

    def _announce(self, order: Order, job: Job, worker: Worker) -> bool:
        """Write on the job what is about to hit it; False: the caller may not."""
        try:
            self._annotate(job, Announcement(order.fault, job.status.incarnation or 0, worker.name).encode())
        except errors.NotAllowed:
            return False
        self._announced = job
        return True

    def _annotate(self, job: Job, value: str | None) -> None:
        body = {"metadata": {"annotations": {labels.DRILL: value}}}
        path = paths.job(job.namespace, job.name)
        self._transport.send(Request(method="PATCH", path=path, body=body, content_type=MERGE_PATCH))

    def _delete(self, pod: str, namespace: str, uid: str, leader: str | None = None) -> Made:
        """At once, and only this very pod."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        self._transport.send(Request(method="DELETE", path=paths.core(namespace, "pods", pod), body=body))
        return Made(pod, self._clock(), leader)

    def _evict(self, worker: Worker, namespace: str) -> Made:
        body = {
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": worker.name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": worker.uid}},
        }  # fmt: skip
        self._transport.send(Request(method="POST", path=paths.eviction(namespace, worker.name), body=body))
        return Made(worker.name, self._clock())

    def _kill_operator(self, namespace: str) -> Made:
        holder = self.leader(namespace)
        if not holder:
            raise errors.BadInput(
                f"no operator leads in namespace {namespace}", hint="where does it live? --operator-namespace"
            )
        uid = str(self._get(paths.core(namespace, "pods", holder))["metadata"]["uid"])
        return self._delete(holder, namespace, uid, leader=holder)

    def _hit(self, order: Order, job: Job, found: Sequence[Worker]) -> Made:
        """In the first pod that has the rank."""
        rank = () if order.rank is None else ("--rank", str(order.rank))
        here = ""
        for worker in found:
            told = self._announce(order, job, worker)
            with closing(self._execute(worker, job, order.fault, *rank)) as running:
                line, at = running.line(ANSWER_SECONDS), self._clock()
                if line is None:
                    here = _why_not(running, worker)
                    continue
                with suppress(errors.Unreachable, errors.TimedOut):  # the pod may go down with its rank
                    _require_done(running, worker)
            made = Made(f"{line} in {worker.name}", at, announced=told)
            if order.fault is Fault.STOP_RANK:
                return replace(made, undo=self._continuing(worker, job, line.removeprefix("rank ")))
            return made
        which = "no rank" if order.rank is None else f"rank {order.rank}"
        raise errors.BadInput(f"{which} of job {job.name} was found in no worker that runs", hint=here)

    def _continuing(self, worker: Worker, job: Job, rank: str) -> Callable[[], None]:
        def undo() -> None:
            words = (CONTINUE_RANK, "--rank", rank)
            with suppress(errors.DisttrainError), closing(self._execute(worker, job, *words)) as running:
                running.end(ANSWER_SECONDS)  # an error: the pod, or the rank, is gone

        return undo

    def _fill(self, worker: Worker, job: Job, seconds: float, claim: Raw | None) -> Made:
        size = ("--claim-bytes", str(claim_bytes(claim)))
        running = self._execute(worker, job, Fault.FILL_DISK, *size, "--seconds", str(seconds))
        line, at = running.line(ANSWER_SECONDS), self._clock()
        if line is None:
            _require_done(running, worker)
            raise errors.BadInput(f"the disk was not filled from pod {worker.name}")
        return Made(f"{line.partition(',')[0]} from {worker.name}", at, undo=running.close)

    def _execute(self, worker: Worker, job: Job, *words: str) -> Execution:
        command = ("python", "-m", MODULE, *words)
        return self._transport.execute(paths.execute(job.namespace, worker.name), command, names.CONTAINER)

    def _is_operator(self, namespace: str, pod: str) -> bool:
        try:
            labels = self._get(paths.core(namespace, "pods", pod))["metadata"].get("labels") or {}
        except errors.NotFound:
            return False
        return bool(labels.get(COMPONENT[0]) == COMPONENT[1])

    def _get(self, path: str) -> Raw:
        body = self._transport.send(Request(method="GET", path=path)).body
        return body if isinstance(body, dict) else {}


def claim_bytes(claim: Raw | None) -> int:
    """How much a checkpoint claim holds."""
    from kubernetes.utils.quantity import parse_quantity

    if claim is None:
        raise errors.BadInput("the job's checkpoint claim is not there: there is no disk to fill")
    capacity = ((claim.get("status") or {}).get("capacity") or {}).get("storage")
    asked = claim["spec"]["resources"]["requests"]["storage"]
    return int(parse_quantity(capacity or asked))  # type: ignore[no-untyped-call]


def _why_not(running: Execution, worker: Worker) -> str:
    """The rank is elsewhere; anything else is raised."""
    ended = running.end(ANSWER_SECONDS)
    if ended.code == Exit.NOT_HERE:
        return f"{worker.name}: {ended.stderr}"
    raise _impossible(worker, ended.stderr)


def _require_done(running: Execution, worker: Worker) -> None:
    ended = running.end(ANSWER_SECONDS)
    if ended.code != Exit.DONE:
        raise _impossible(worker, ended.stderr)


def _impossible(worker: Worker, stderr: str) -> errors.BadInput:
    said = stderr.rsplit("\n", 1)[-1]
    older = "the job's image is older than fire drills: build it from this version" if "No module" in said else ""
    return errors.BadInput(f"the fault could not be made in pod {worker.name}: {said or 'no word why'}", hint=older)
