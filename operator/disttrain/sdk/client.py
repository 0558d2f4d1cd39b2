"""The SDK: submit a DistTrainJob and see it through. Synchronous; raw objects in, thin views out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disttrain.sdk import errors, logs, paths, updates
from disttrain.sdk.course import Order, Result
from disttrain.sdk.drill import Drill
from disttrain.sdk.faults import Faults
from disttrain.sdk.job import Happening, Job, Worker
from disttrain.sdk.log_lines import LogLine
from disttrain.sdk.transport import APPLY_PATCH, MERGE_PATCH, Request, Transport
from disttrain.sdk.updates import JobGone, JobSeen, Update
from disttrain.sdk.watching import Sight, Watch
from disttrain_contract import names

if TYPE_CHECKING:
    from disttrain.api import DistTrainJob

MANAGER = "disttrain"
"""Field manager of what is submitted, so that it does not fight with kubectl's."""
OURS = f'conflict with "{MANAGER}"'
"""What `suspend` and `resume` have set is no stranger's: a file may set it back."""
WRITE = {"fieldManager": MANAGER, "fieldValidation": "Strict"}


@dataclass(frozen=True, slots=True)
class Submitted:
    """What `submit` did."""

    job: Job
    created: bool
    changed: bool
    """Created, or its spec changed."""


class Client:
    """Jobs of a cluster. `namespace` is where names are looked up unless a call says otherwise."""

    def __init__(self, transport: Transport, namespace: str = "default") -> None:
        self._transport = transport
        self.namespace = namespace

    @classmethod
    def connect(
        cls, *, kubeconfig: str | Path | None = None, context: str | None = None, namespace: str | None = None
    ) -> Client:
        """As kubectl would: kubeconfig and context, else the environment, else the pod's own account."""
        from disttrain.sdk.connection import connect

        transport, default = connect(kubeconfig, context)
        return cls(transport, namespace or default)

    def submit(
        self, job: Mapping[str, Any] | DistTrainJob, *, dry_run: bool = False, force_conflicts: bool = False
    ) -> Submitted:
        """Create it, or change the one that is there (server-side apply). Raises `Invalid` with every wrong field."""
        manifest = self._manifest(job)
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"].get("name")
        if not name:
            return self._create(manifest, {"dryRun": "All"} if dry_run else {})
        try:  # a dry run first: it names every unknown field, where apply stops at the first with a server error
            tried = self._create(manifest, {"dryRun": "All"})
            if dry_run:
                return tried
            old = None
        except errors.Conflict:
            old = self.get(name, namespace)
        if old is not None and old.deleting:
            raise errors.Conflict(
                f"job {name!r} is being deleted: submit it again when it is gone", status=409, hint=f"disttrain wait {name} --for=delete"
            )  # fmt: skip
        query = WRITE | ({"force": "true"} if force_conflicts else {}) | ({"dryRun": "All"} if dry_run else {})
        new = self._apply(namespace, name, manifest, query)
        changed = old is None or old.raw["metadata"].get("generation") != new.raw["metadata"].get("generation")
        return Submitted(new, created=old is None, changed=changed)

    def get(self, name: str, namespace: str | None = None) -> Job:
        """Raises NotFound."""
        return Job(self._send("GET", paths.job(namespace or self.namespace, name)))

    def list(self, *, all_namespaces: bool = False) -> Sequence[Job]:
        """By namespace and name."""
        found = self._send("GET", paths.jobs(None if all_namespaces else self.namespace)).get("items") or ()
        return sorted((Job(raw) for raw in found), key=lambda job: (job.namespace, job.name))

    def watch_all(self, *, all_namespaces: bool = False) -> Iterator[Sight]:
        """Every job now, then every change, for ever."""
        yield from Watch(self._transport, paths.jobs(None if all_namespaces else self.namespace))

    def watch(self, name: str, *, tick: float = 1.0) -> Generator[Update]:
        """The job, its events, and a `Tick` whenever nothing has come for `tick` seconds, until it is deleted."""
        yield from updates.follow(self._transport, self.get(name), tick)

    def wait(self, name: str, *, until: Callable[[Job], bool], timeout: float | None = None) -> Job | None:
        """Until it holds; None when the job is gone. Raises TimedOut."""
        end = time.monotonic() + timeout if timeout is not None else None
        state = "unknown"
        with closing(self.watch(name, tick=0.5)) as stream:
            for update in stream:
                if isinstance(update, JobGone):
                    return None
                if isinstance(update, JobSeen):
                    state = update.job.state
                    if until(update.job):
                        return update.job
                if end is not None and time.monotonic() > end:
                    raise errors.TimedOut(f"job {name!r} is still {state} after {timeout:.0f} s; it goes on")
        return None

    def workers(self, job: Job) -> Sequence[Worker]:
        """Its pods, by worker index."""
        found = self._send("GET", paths.core(job.namespace, "pods"), query=paths.of_job(job.name)).get("items") or ()
        return sorted((Worker(raw) for raw in found), key=lambda worker: worker.index)

    def events(self, job: Job) -> Sequence[Happening]:
        """About the job, and warnings about its pods; oldest first."""
        path = paths.core(job.namespace, "events")
        raws = [
            raw
            for query in (paths.about(job.uid), paths.POD_WARNINGS)
            for raw in self._send("GET", path, query=query).get("items") or ()
        ]
        found = (Happening(raw) for raw in raws)
        return sorted((e for e in found if updates.concerns(e, job)), key=lambda e: str(e.time))

    def claim(self, job: Job) -> Mapping[str, Any] | None:
        """Its checkpoint claim; None when it wants none or there is none."""
        name = claim_name(job)
        try:
            return self._send("GET", paths.core(job.namespace, "persistentvolumeclaims", name)) if name else None
        except errors.NotFound:
            return None

    def logs(
        self,
        name: str,
        *,
        ranks: frozenset[int] | None = None,
        follow: bool = False,
        previous: bool = False,
        tail: int | None = None,
    ) -> Iterator[LogLine]:
        """Lines of all pods: in the order of time, or as they come (`follow`: until the job ends)."""
        job, selection = self.get(name), logs.Selection(ranks=ranks, tail=tail)
        if follow:
            yield from logs.Following(self._transport, job, selection).lines()
        else:
            yield from logs.read(self._transport, job, self.workers(job), selection, previous=previous)

    def suspend(self, name: str) -> Job:
        """Workers save a checkpoint and end; the job waits."""
        return self._set_suspend(name, suspend=True)

    def resume(self, name: str) -> Job:
        """A suspended job goes on from its checkpoint."""
        return self._set_suspend(name, suspend=False)

    def delete(self, name: str, *, wait: bool = False, timeout: float | None = None) -> Job:
        """The job and its pods, never its checkpoints. `wait`: until its pods are gone too."""
        job = self.get(name)
        # Foreground: the job itself vanishes last, so that waiting for it is waiting for its pods.
        query = {"propagationPolicy": "Foreground" if wait else "Background"}
        self._send("DELETE", paths.job(job.namespace, name), query=query)
        if wait:
            with suppress(errors.NotFound):  # gone already
                self.wait(name, until=lambda seen: seen.uid != job.uid, timeout=timeout)
        return job

    def drill(self, name: str, order: Order, say: Callable[[str], None] = lambda line: None) -> Iterator[Result]:
        """Break something on purpose, and see the job recover: a result for each repetition."""
        yield from Drill(self, Faults(self._transport), order, say).run(name)

    def _set_suspend(self, name: str, *, suspend: bool) -> Job:
        path = paths.job(self.namespace, name)
        body = {"spec": {"suspend": suspend}}
        return Job(self._send("PATCH", path, query=WRITE, body=body, content_type=MERGE_PATCH))

    def _create(self, manifest: Mapping[str, Any], query: Mapping[str, str]) -> Submitted:
        path = paths.jobs(manifest["metadata"]["namespace"])
        return Submitted(
            Job(self._send("POST", path, query={**WRITE, **query}, body=manifest)), created=True, changed=True
        )

    def _apply(self, namespace: str, name: str, manifest: Mapping[str, Any], query: Mapping[str, str]) -> Job:
        try:
            return Job(
                self._send("PATCH", paths.job(namespace, name), query=query, body=manifest, content_type=APPLY_PATCH)
            )
        except errors.Conflict as conflict:
            if "force" not in query and conflict.fields and all(OURS in error.message for error in conflict.fields):
                return self._apply(namespace, name, manifest, {**query, "force": "true"})
            owners = "; ".join(f"{error.field}: {error.message}" for error in conflict.fields)
            raise errors.Conflict(
                f"somebody else has set what the file sets: {owners or conflict}", status=409, fields=conflict.fields,
                hint="take the field out of the file, or take it over with --force-conflicts",
            ) from conflict  # fmt: skip

    def _manifest(self, job: Mapping[str, Any] | DistTrainJob) -> dict[str, Any]:
        from disttrain.sdk.manifest import checked

        return checked(job, self.namespace)

    def _send(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._transport.send(Request(method=method, path=path, **request))
        return dict(answer.body) if isinstance(answer.body, Mapping) else {}


def claim_name(job: Job) -> str:
    """The checkpoint claim that a job uses; empty: it keeps none."""
    volume = (job.spec.get("checkpoint") or {}).get("volume") or {}
    return str(volume.get("claimName") or (names.claim_name(job.name) if volume.get("size") else ""))
