"""The shell of the agent: carries events to `decide` and actions to processes, stream and logs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from disttrain_contract import paths
from disttrain_contract.env import WorkerEnv
from disttrain_contract.exits import describe
from disttrain_contract.messages import (
    AgentState,
    Assignment,
    Failure,
    Holding,
    Membership,
    Order,
    Progress,
    RankBody,
    RankEvent,
    Report,
)
from disttrain_contract.topology import master_port
from disttrain_runtime.agent import decide as d
from disttrain_runtime.agent import hang
from disttrain_runtime.agent.cgroup import memory_group
from disttrain_runtime.agent.devices import processes_per_worker, visible_gpus
from disttrain_runtime.agent.diagnose import Death, cannot_start, diagnose
from disttrain_runtime.agent.launch import (
    SCRIPT_PRELOAD,
    SPARE,
    RankSpec,
    job_directory,
    parent_environment,
    place_environment,
    preload,
    rank_specs,
    spare_spec,
)
from disttrain_runtime.agent.oom import OomKills
from disttrain_runtime.agent.output import Output
from disttrain_runtime.agent.rank_process import Listener, RankProcess
from disttrain_runtime.agent.stream import Dial, Stream
from disttrain_runtime.agent.supervisor import Supervisor
from disttrain_runtime.agent.termination import write_last_words
from disttrain_runtime.agent.told import Told, present
from disttrain_runtime.agent.warm import Warm
from disttrain_runtime.agent.watch import Alarm, Watch

RESERVED_SECONDS = 3.0
"""Of the pod's grace period, for our own end: last report, last words, last log lines."""
FLUSH_SECONDS = 2.0
"""For the operator to read the last report; the termination message says the same, only later."""
VOLUME_SECONDS = 5.0
"""How long the first ranks wait for the job's directory; a volume that hangs is the ranks' to report."""
SPARE_SECONDS = 2.0
"""From the start of ranks until a spare is made behind them: it must not take the processor from what they do first."""
SCRIPT_ROOM = 1 << 30
"""Bytes of memory limit below which a program that is not ours is not preloaded: it may have been measured to fit."""
SPARE_ROOM = 0.8
"""Of the container's memory limit: a spare that could bring the ranks beyond that is not made."""


@dataclass(frozen=True, slots=True)
class Places:
    """Files that the kubelet puts into the pod."""

    token_file: PurePosixPath = paths.TOKEN_FILE
    termination_log: PurePosixPath = paths.TERMINATION_LOG


class App:
    """One agent, on one event loop, in the main thread."""

    def __init__(self, worker: WorkerEnv, places: Places, environment: Mapping[str, str]) -> None:
        self._worker = worker
        self._places = places
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._rules = d.Rules(
            job_uid=worker.job_uid,
            worker_index=worker.worker_index,
            stop_seconds=max(worker.run.grace_seconds - RESERVED_SECONDS, worker.run.grace_seconds / 2),
            alone=not worker.operator_url,
            task=worker.run.entrypoint is not None,
        )
        self._agent = d.Agent()
        self._told = Told()
        self._processes = processes_per_worker(worker.run.processes_per_worker, visible_gpus(environment))
        self._memory = OomKills(memory_group())
        self._timer: asyncio.TimerHandle | None = None
        self._spare_timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Future[int] = self._loop.create_future()
        directory = job_directory(worker)
        self._output = Output(directory, self._room_soon)
        self._volume_ready = asyncio.ensure_future(_make(directory))
        self._warm = self._make_warm()
        listener = Listener(self._heard_lines, self._heard_message)
        self._supervisor = Supervisor(listener, self._rank_exited, init=True, warm=self._warm)
        self._watch = self._make_watch()
        self._stream = None if self._rules.alone else self._dial()

    @property
    def report(self) -> Report:
        """The whole present state."""
        watch = self._watch
        return present(self._agent, self._told, self._processes, self._loop.time(), watch.stall, watch.waiting)

    async def run(self, early: Sequence[int] = ()) -> int:
        """Until the pod's work is over; the exit code. `early`: signals that came before we could listen."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._apply, d.Terminated())
        self._loop.set_exception_handler(self._defect)
        dialing = asyncio.create_task(self._stream.run()) if self._stream else None
        if self._warm is not None and self._worker.worker_index >= self._worker.workers:  # a standby: all it can do now
            self._warm.decided.add_done_callback(lambda _: self._spares_later(self._processes))
        if early:
            self._apply(d.Terminated())
        elif self._rules.alone:
            self._apply(d.Assigned(self._assign_alone()))
        code = await self._leaving
        self._output.say(f"leaving: {self._agent.state}, {describe(code)}")
        write_last_words(self.report, self._places.termination_log)
        self._watch.close()
        self._supervisor.dismiss()
        if self._warm is not None:
            self._warm.close()
        self._supervisor.end_strays()
        if self._stream is not None and dialing is not None:
            await self._stream.flush(FLUSH_SECONDS)
            dialing.cancel()
        return code

    def abandon(self) -> None:
        """After a defect: leave nothing running."""
        self._supervisor.kill()

    def drain(self) -> None:
        """Write what is left of the logs."""
        self._output.drain(FLUSH_SECONDS)

    def _dial(self) -> Stream:
        worker = self._worker
        dial = Dial(worker.operator_url, worker.operator_ca, self._places.token_file)
        return Stream(dial, lambda: self.report, self._assigned, self._output.say)

    def _make_warm(self) -> Warm | None:
        modules = preload(self._worker.run, self._environment.get("PATH"))
        limit = self._memory.limit_bytes()
        if not modules or (modules == SCRIPT_PRELOAD and limit is not None and limit < SCRIPT_ROOM):
            return None
        environment = parent_environment(self._worker, self._processes, self._environment)
        return Warm(modules, environment, self._output.say, self._memory.excuse)

    def _make_watch(self) -> Watch:
        rules = hang.Rules(timeout=self._worker.run.hang_timeout_seconds, spinning=visible_gpus(self._environment) > 0)
        alarm = Alarm(self._output.stacks, self._hung, lambda: self._changed(urgent=True))
        return Watch(rules, lambda: self._supervisor.ranks, alarm)

    def _hung(self, rank: RankProcess, failure: Failure) -> None:
        """It cannot say so itself."""
        self._heard_message(rank.spec, RankEvent.FAILURE, failure)

    def _assign_alone(self) -> Assignment:
        """What an operator would say to the only worker of a job."""
        members = Membership(
            incarnation=1,
            workers=1,
            processes_per_worker=self._processes,
            master_addr="127.0.0.1",
            master_port=master_port(1),
        )
        return Assignment(job_uid=self._worker.job_uid, incarnation=1, membership=members)

    def _assigned(self, assignment: Assignment) -> None:
        """Not within the stream, which survives every error of its own, but not ours."""
        self._loop.call_soon(self._apply, d.Assigned(assignment))

    def _apply(self, event: d.Event) -> None:
        """The one way in: every event, one after the other."""
        before = self._agent
        self._agent, actions = d.decide(self._rules, before, event, self._loop.time())
        if self._agent.incarnation != before.incarnation:
            self._told = self._told.next_incarnation()
            self._watch.begin()
            self._output.incarnation = self._agent.incarnation
            if self._agent.state is AgentState.IDLE:
                self._output.say(f"incarnation {self._agent.incarnation}: waiting for the group")
        failure = self._agent.failure
        if failure is not None and failure != before.failure:
            self._output.say(f"rank {failure.rank} failed: {failure.message}")
        for action in actions:
            self._do(action)
        if self._agent != before:
            self._schedule()
            self._changed(urgent=True)

    def _do(self, action: d.Action) -> None:
        match action:
            case d.Start(members, group_rank):
                self._move(members, group_rank)
                self._start_when_ready(members, group_rank)
            case d.Hold(incarnation):
                self._supervisor.hold(Order(incarnation=incarnation))
            case d.Terminate(spare):
                self._output.say("asking the ranks to end")
                self._supervisor.terminate(spare)
            case d.Kill(only):
                self._output.say("killing the ranks: they had their time to end")
                self._supervisor.kill(only)
            case d.Leave(code):
                if not self._leaving.done():
                    self._leaving.set_result(code)

    def _move(self, members: Membership, group_rank: int) -> None:
        """Ranks that live go to the next group at once, whatever the others still wait for."""
        for spec in rank_specs(self._worker, members, group_rank, self._environment):
            if spec.local_rank in self._agent.live:
                self._supervisor.move(spec, self._order(members, group_rank, spec))

    def _order(self, members: Membership, group_rank: int, spec: RankSpec) -> Order:
        place = place_environment(self._worker, members, group_rank, spec.local_rank)
        return Order(incarnation=members.incarnation, environment=place)

    def _start_when_ready(self, members: Membership, group_rank: int) -> None:
        """What new ranks will stand on: the job's directory, and the process that they are forked from."""
        awaited = (self._volume_ready, *((self._warm.decided,) if self._warm is not None else ()))
        for thing in awaited:
            if not thing.done():
                thing.add_done_callback(lambda _: self._start_when_ready(members, group_rank))
                return
        self._start(members, group_rank)

    def _start(self, members: Membership, group_rank: int) -> None:
        if self._agent.leaving is not None or members.incarnation != self._agent.started:
            return  # overtaken while the volume was made ready
        live = set(self._agent.live)
        if not live:
            self._supervisor.end_strays()
            self._memory.begin()
        moved = len(live)
        for spec in rank_specs(self._worker, members, group_rank, self._environment):
            if spec.local_rank in live or self._supervisor.adopt(spec, self._order(members, group_rank, spec)):
                live.add(spec.local_rank)
                continue
            try:
                self._supervisor.start(spec)
            except (OSError, ValueError) as error:
                self._agent = d.started(self._agent, frozenset(live))
                failure = cannot_start(spec.rank, spec.local_rank, spec.argv[0] if spec.argv else "", error)
                self._apply(d.RankEnded(spec.local_rank, failure))
                return
            live.add(spec.local_rank)
        self._agent = d.started(self._agent, frozenset(live))
        kept = f", kept {moved}" if moved else ""
        self._output.say(f"incarnation {members.incarnation}: started {len(live) - moved} of the group's ranks{kept}")
        self._changed(urgent=True)
        self._spares_later(1)

    def _spares_later(self, count: int) -> None:
        if self._spare_timer is not None:
            self._spare_timer.cancel()
        if self._rules.regroups:
            self._spare_timer = self._loop.call_later(SPARE_SECONDS, self._keep_spares, count)

    def _keep_spares(self, count: int) -> None:
        """Make what a dead rank will be replaced from, if there is memory for it."""
        if self._agent.leaving is not None or self._agent.ending is not None:
            return
        if not self._memory.has_room(SPARE_ROOM, self._supervisor.bytes_with_a_spare()):
            self._output.say("no spare rank is kept: the container's memory limit leaves no room for one")
            return
        spec = spare_spec(self._worker, self._processes, self._environment)
        for _ in range(count - self._supervisor.spares):
            self._supervisor.keep_spare(spec)

    def _rank_exited(self, rank: RankProcess, status: int) -> None:
        local_rank = rank.spec.local_rank
        if rank.junk:
            self._output.say(f"rank {rank.spec.rank} wrote {rank.junk} lines to its report pipe that are not reports")
        failure = diagnose(
            Death(
                rank=rank.spec.rank,
                local_rank=local_rank,
                status=status,
                stderr=rank.stderr,
                said=self._told.failures.get(local_rank),
                oom_kills=self._memory.of_ranks(),
                memory_limit=self._memory.limit_bytes(),
                signalled=rank.signalled,
                step=self._told.step,
            )
        )
        self._told = self._told.bury(local_rank)
        self._apply(d.RankEnded(local_rank, failure))

    def _heard_lines(self, spec: RankSpec, lines: list[bytes]) -> None:
        self._output.lines(spec, lines)
        if self._output.full:
            self._supervisor.pause()

    def _room_soon(self) -> None:
        """Called on the writer's thread."""
        with suppress(RuntimeError):  # the loop is gone: these are the last lines
            self._loop.call_soon_threadsafe(self._supervisor.resume)

    def _heard_message(self, spec: RankSpec, event: RankEvent, body: RankBody) -> None:
        if spec.rank == SPARE:
            return  # it has no place yet, so nothing that it says is about the job
        if isinstance(body, Progress) and self._rules.regroups and self._told.restore is None and spec.rank == 0:
            return  # of the group before: a group's first word is what it starts from
        first = self._told.progress is None  # the first step of a group is what everybody waits for
        self._told = self._told.hear(spec.local_rank, body)
        if isinstance(body, Holding):
            if body.incarnation == self._agent.incarnation:
                self._apply(d.RankHolds(spec.local_rank, body.failure))
        elif isinstance(body, Failure):
            death = Death(rank=spec.rank, local_rank=spec.local_rank, status=0, said=body, step=self._told.step)
            if (failure := diagnose(death)) is not None:
                self._apply(d.RankFailed(spec.local_rank, failure))
        self._changed(urgent=first or event is not RankEvent.PROGRESS)

    def _changed(self, urgent: bool) -> None:
        if self._stream is not None:
            self._stream.changed(urgent)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self._agent.wake_at()
        self._timer = self._loop.call_at(wake_at, self._apply, d.Tick()) if wake_at is not None else None

    def _defect(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """One of our callbacks raised: better an agent that ends than one that no longer decides."""
        error = context.get("exception")
        if "handle" not in context:  # a transport's trouble, which the stream gets over
            self._output.say(f"{context.get('message')}: {error}")
        elif not self._leaving.done():
            self._leaving.set_exception(error if isinstance(error, Exception) else RuntimeError(str(context)))


async def _make(directory: PurePosixPath | None) -> None:
    """The job's directory, for scripts that count on it. What is wrong with the volume, the ranks will find out."""
    if directory is None:
        return
    try:
        async with asyncio.timeout(VOLUME_SECONDS):
            await asyncio.to_thread(os.makedirs, directory, exist_ok=True)
    except (OSError, TimeoutError):
        return
