"""The logs of a job: of all its pods at once, through restarts and replacements."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from disttrain.sdk import errors, log_lines, paths
from disttrain.sdk.job import Job, Worker
from disttrain.sdk.log_lines import LogLine
from disttrain.sdk.merging import Merge
from disttrain.sdk.transport import Lines, Request, Transport
from disttrain.sdk.watching import Change, Sight, Watch
from disttrain_contract import names

MAX_STREAMS = 64
"""Each stream is a connection to a kubelet through the API server; more would hurt it."""
RECONNECT_SECONDS = 0.5
LAST_WORDS_SECONDS = 10.0
"""After the job has finished, silence of this length ends a follow. Streams end by themselves when their containers have;
this is for those that do not, and on a busy node the last lines come seconds late."""


class PodLog:
    """What one pod prints; a cut connection goes on behind the last line that was read."""

    def __init__(
        self,
        transport: Transport,
        namespace: str,
        pod: str,
        *,
        follow: bool,
        previous: bool = False,
        tail: int | None = None,
    ):
        self._transport = transport
        self._path = paths.log(namespace, pod)
        self._pod = pod
        self._follow = follow
        self._query = {"container": names.CONTAINER, "timestamps": "true"}
        self._query |= {"follow": "true"} if follow else {}
        self._query |= {"previous": "true"} if previous else {}
        self._tail = tail
        self._last = ""
        self._stop = threading.Event()
        self._lines: Lines | None = None

    def close(self) -> None:
        """End it."""
        self._stop.set()
        if self._lines is not None:
            self._lines.close()

    def __iter__(self) -> Iterator[LogLine]:
        while not self._stop.is_set():
            try:
                yield from self._read()
                return  # the container has ended
            except errors.Unreachable:
                if not self._follow:
                    raise
            except errors.Refused as refusal:
                if refusal.status == 404 or self._stop.is_set():
                    return  # the pod is gone
                if not self._follow:
                    raise
            self._stop.wait(RECONNECT_SECONDS)

    def _read(self) -> Iterator[LogLine]:
        query, known = dict(self._query), self._last
        if known:
            query["sinceTime"] = known
        elif self._tail is not None:
            query["tailLines"] = str(self._tail)
        self._lines = self._transport.stream(Request(method="GET", path=self._path, query=query))
        try:
            for raw in self._lines:
                line = log_lines.parse(self._pod, raw)
                if line.time <= known:  # sinceTime knows whole seconds only
                    continue
                self._last = line.time
                yield line
        finally:
            self._lines.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which lines are wanted."""

    ranks: frozenset[int] | None = None
    tail: int | None = None
    """The last lines of each pod only."""

    def takes(self, job: Job, worker: Worker) -> bool:
        """Whether a pod can have lines of interest."""
        return self.ranks is None or any(job.can_have_run(worker.index, rank) for rank in self.ranks)


def read(
    transport: Transport, job: Job, workers: Sequence[Worker], selection: Selection, *, previous: bool
) -> Iterator[LogLine]:
    """What there is now, in the order of time."""
    chosen = [w for w in workers if selection.takes(job, w) and (w.started or previous)]
    sources = []
    for worker in chosen:
        log = PodLog(transport, job.namespace, worker.name, follow=False, previous=previous, tail=selection.tail)
        sources.append(_or_note(worker.name, log))
    yield from log_lines.wanted(heapq.merge(*sources, key=lambda line: line.time), selection.ranks)


def _or_note(pod: str, log: PodLog) -> Iterator[LogLine]:
    try:
        yield from log
    except errors.Refused as refusal:
        reason = refusal.fields[0].message if refusal.fields else str(refusal)
        yield LogLine(pod, None, "", f"no log: {reason}", note=True)


class Following:
    """The state of one `logs --follow`: which pods are read, whether the job has ended."""

    def __init__(self, transport: Transport, job: Job, selection: Selection) -> None:
        self._transport = transport
        self._job = job
        self._selection = selection
        self._read: dict[str, str] = {}
        """Pod name → UID of the one that is being read."""
        self._merge: Merge[LogLine | Worker | JobEnded | None] = Merge()

    def lines(self) -> Iterator[LogLine]:
        """Until the job has finished and its pods have said their last words."""
        same = {"fieldSelector": f"metadata.name={self._job.name}"}
        known = [dict(self._job.raw)]
        self._merge.add(Watch(self._transport, paths.jobs(self._job.namespace), same, known), _ended)
        pods = paths.core(self._job.namespace, "pods")
        self._merge.add(Watch(self._transport, pods, paths.of_job(self._job.name)), _worker)
        heard, finished = time.monotonic(), self._job.finished
        for found in self._merge.read(tick=0.25):
            match found:
                case LogLine():
                    heard = time.monotonic()
                    yield from log_lines.wanted([found], self._selection.ranks)
                case Worker():
                    yield from self._saw(found)
                case JobEnded():
                    heard, finished = time.monotonic(), True
                case None:
                    pass
            only_watches_left = self._merge.open_sources == 2
            patience = LAST_WORDS_SECONDS if not only_watches_left or not self._read else 2 * RECONNECT_SECONDS
            if finished and time.monotonic() - heard > patience:
                return

    def _saw(self, worker: Worker) -> Iterator[LogLine]:
        old = self._read.get(worker.name)
        if not worker.started or old == worker.uid or not self._selection.takes(self._job, worker):
            return
        if old is None and len(self._read) >= MAX_STREAMS:
            raise errors.BadInput(
                f"job {self._job.name} has {self._job.workers} workers; at most {MAX_STREAMS} can be followed at once",
                hint="choose ranks, for example --rank 0-7",
            )
        if old is not None:
            where = f" on {worker.node}" if worker.node else ""
            text = f"replaced by a new pod{where}, made for incarnation {worker.incarnation}"
            yield LogLine(worker.name, None, "", text, note=True)
        self._read[worker.name] = worker.uid
        log = PodLog(self._transport, self._job.namespace, worker.name, follow=True, tail=self._selection.tail)
        self._merge.add(log, _line)


@dataclass(frozen=True, slots=True)
class JobEnded:
    """It has finished or is gone."""


def _ended(sight: Sight) -> LogLine | Worker | JobEnded | None:
    return JobEnded() if sight.change is Change.GONE or Job(sight.raw).finished else None


def _worker(sight: Sight) -> LogLine | Worker | JobEnded | None:
    return Worker(sight.raw) if sight.change is Change.SEEN else None


def _line(line: LogLine) -> LogLine | Worker | JobEnded | None:
    return line
