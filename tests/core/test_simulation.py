"""A world of kubelets, agents and ranks that obeys the plan badly: calls are lost, watches lag, the operator dies.

Whatever happens, the job ends; incarnations never go back; a failure is charged at most once; ranks of two incarnations
never train together; no two pods ever hold one seat; what happens to a standby costs nothing; once the faults are over the
group is whole again; and a plan for a world at rest changes nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Checkpoint, Failure, Progress, Report, Restore
from disttrain_operator.core import finish
from disttrain_operator.core.actions import Assign, CreateClaim, CreatePod, CreateService, DeleteJob, DeletePod, Plan
from disttrain_operator.core.conditions import Type, is_true
from disttrain_operator.core.model import AgentView, Exit, Job, NodeFailure, Pod, Status, World
from disttrain_operator.core.plan import plan
from support.worlds import NOW, a_job

STEPS = 30
SAVE_EVERY = 5


@dataclass
class SimPod:
    """A pod with a real life of its own: the operator sees it only through `seen()`."""

    name: str
    uid: str
    index: int
    incarnation: int
    ip: str | None = None
    connected: bool = False
    silent: float = 0.0
    deleting: bool = False
    exit: Exit | None = None
    accepted: int = 0
    joined: int = 0
    rank: int | None = None
    size: int = 0
    state: AgentState = AgentState.IDLE
    failure: Failure | None = None
    restore: Restore | None = None

    def report(self, sim: Sim) -> Report:
        leads = self.rank == 0 and self.joined == self.accepted == sim.trained_by
        step = Progress(step=sim.step) if leads else None
        save = sim.saved if leads else None
        return Report(
            incarnation=self.accepted,
            state=self.state,
            failure=self.failure,
            progress=step,
            checkpoint=save,
            restore=self.restore,
        )

    def seen(self, sim: Sim) -> Pod:
        agent = (
            AgentView(report=self.report(sim), connected=self.connected, silent_seconds=self.silent)
            if self.ip
            else None
        )
        return Pod(
            name=self.name, uid=self.uid, index=self.index, incarnation=self.incarnation, ip=self.ip, node="node-1",
            deleting=self.deleting, exit=self.exit, agent=agent if self.exit is None else None,
        )  # fmt: skip


class Sim:
    def __init__(self, seed: int, trouble: float, steps: int = STEPS, max_faults: int = 40) -> None:
        self.random, self.trouble, self.steps, self.max_faults = random.Random(seed), trouble, steps, max_faults
        self.sizes: dict[int, int] = {}
        self.pods: dict[str, SimPod] = {}
        self.now, self.serial, self.service = NOW, 0, False
        self.step, self.trained_by, self.saved, self.fence = 0, 0, None, 0
        self.faults = 0

    # -- what the operator does to the world ---------------------------------------------------------------------
    def obey(self, actions: tuple[object, ...]) -> None:
        for action in actions:
            if self.random.random() < self.trouble:  # the call is lost, or its reply is
                continue
            match action:
                case CreateService():
                    self.service = True
                case CreatePod(index, incarnation):
                    name = f"mnist-{index}"
                    if name not in self.pods:  # AlreadyExists
                        self.serial += 1
                        self.pods[name] = SimPod(name, f"uid-{self.serial}", index, incarnation)
                case DeletePod(name, uid, force):
                    self._delete(name, uid, force)
                case Assign(uid, assignment):
                    self._assign(uid, assignment)
                case CreateClaim() | DeleteJob():
                    pass

    def _delete(self, name: str, uid: str, force: bool) -> None:
        pod = self.pods.get(name)
        if pod is None or pod.uid != uid:
            return
        pod.deleting = True
        if force:
            del self.pods[name]

    def _assign(self, uid: str, assignment) -> None:
        pod = next((p for p in self.pods.values() if p.uid == uid), None)
        if pod is None or not pod.connected or pod.exit is not None or assignment.incarnation < pod.accepted:
            return
        if assignment.stop:
            pod.state = AgentState.STOPPED
            pod.exit = Exit(exit_code=143, reason="Error", report=pod.report(self))
            return
        if assignment.incarnation > pod.accepted:
            pod.accepted, pod.state, pod.failure, pod.rank = assignment.incarnation, AgentState.IDLE, None, None
        if assignment.membership is not None and assignment.incarnation > pod.joined:
            self._join(pod, assignment)

    def _join(self, pod: SimPod, assignment) -> None:
        n, rank, size = assignment.incarnation, assignment.group_rank, assignment.membership.workers
        rivals = [p for p in self.pods.values() if p is not pod and (p.joined, p.rank) == (n, rank) and p.exit is None]
        assert not rivals, "two pods in one seat"
        assert self.sizes.setdefault(n, size) == size, "two sizes of one group"
        pod.joined, pod.rank, pod.size, pod.state = n, rank, size, AgentState.RUNNING

    # -- what the world does by itself ----------------------------------------------------------------------------
    def live(self) -> None:
        passed = self.random.choice([0.1, 0.5, 1.0, 3.0])
        self.now += timedelta(seconds=passed)
        for pod in list(self.pods.values()):
            self._pod(pod, passed)
        self._train()

    def _pod(self, pod: SimPod, passed: float) -> None:
        if pod.deleting:
            if self.random.random() < 0.6:
                del self.pods[pod.name]
            return
        if pod.exit is not None:
            return
        if pod.ip is None:
            pod.ip = f"198.18.0.{pod.index + 1}" if self.random.random() < 0.7 else None
            return
        pod.silent = 0.0 if pod.connected else pod.silent + passed
        if self.random.random() < (0.7 if not pod.connected else self.trouble):
            pod.connected = not pod.connected
        if self.faults < self.max_faults and self.random.random() < self.trouble / 4:
            self._fault(pod)

    def _fault(self, pod: SimPod) -> None:
        self.faults += 1
        match self.random.choice(["process", "container", "oom", "vanish", "deleted"]):
            case "process" if pod.state is AgentState.RUNNING:
                pod.state = AgentState.FAILED
                pod.failure = Failure(
                    rank=pod.rank,
                    local_rank=0,
                    exit_code=1,
                    failure_class=FailureClass.CODE,
                    message=f"ValueError: {self.faults}",
                )
            case "container":
                words = pod.report(self) if self.random.random() < 0.5 else None
                pod.exit, pod.connected = Exit(exit_code=137, reason="Error", report=words), False
            case "oom":
                pod.exit, pod.connected = Exit(exit_code=137, reason="OOMKilled"), False
            case "vanish":
                del self.pods[pod.name]
            case "deleted":
                pod.deleting = True

    def _train(self) -> None:
        """A step needs every rank of one incarnation; ranks whose peer is gone fail as victims sooner or later."""
        for n in {p.joined for p in self.pods.values() if p.state is AgentState.RUNNING}:
            ranks = [
                p for p in self.pods.values() if p.joined == n and p.state is AgentState.RUNNING and p.exit is None
            ]
            if len({p.rank for p in ranks}) == self.sizes[n]:
                self._step(n, ranks)
            elif n == self.trained_by:
                for victim in ranks:
                    if self.random.random() < 0.5:
                        victim.state = AgentState.FAILED
                        victim.failure = Failure(
                            rank=victim.rank, local_rank=0, exit_code=1, failure_class=FailureClass.NETWORK, message="Connection closed by peer"
                        )  # fmt: skip

    def _step(self, n: int, ranks: list[SimPod]) -> None:
        assert n >= self.trained_by, "an old incarnation trained after a newer one"
        if n > self.trained_by:
            self.trained_by, self.fence = n, n
            self.step = self.saved.step if self.saved else 0
            for rank in ranks:
                rank.restore = Restore(step=self.step, source="volume" if self.saved else "none", digest="d")
        self.step = min(
            self.step + 1, self.steps
        )  # a group that starts again behind the last step has nothing left to do
        if self.step % SAVE_EVERY == 0 and n >= self.fence:
            self.saved = Checkpoint(step=self.step, digest="d", path="p", incarnation=n, time="")
        if self.step >= self.steps:
            for rank in ranks:
                rank.state = AgentState.FINISHED
                rank.exit, rank.connected = Exit(exit_code=0, reason="Completed", report=rank.report(self)), False


def observe(sim: Sim, job: Job, lag: dict[str, Pod]) -> World:
    """With a lagging watch: sometimes the operator sees the pods of a while ago."""
    fresh = {p.name: p.seen(sim) for p in sim.pods.values()}
    if sim.random.random() < sim.trouble and lag:
        fresh = dict(lag)
    lag.clear()
    lag.update(fresh)
    return World(job=job, pods=tuple(fresh.values()), service_exists=sim.service)


WORLDS = {
    "plain": {},
    "standbys": {"standby": 2},
    "elastic": {"min_workers": 1},
    "elastic with a standby": {"min_workers": 2, "standby": 1},
}


def turn(sim: Sim, job: Job, lag: dict[str, Pod]) -> Job:
    """One pass, which may be cut off at any point, and a moment of the world."""
    world = observe(sim, job, lag)
    answer = plan(world, sim.now)
    check(world, answer)
    if sim.random.random() >= sim.trouble:  # else the operator dies, or loses a conflict, before its status write
        job = replace(job, status=answer.status)
        if sim.random.random() >= sim.trouble:  # … or after it, before its actions
            sim.obey(answer.actions)
    if not finish.is_finished(job.status):
        sim.live()
    return job


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("trouble", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("spec", WORLDS.values(), ids=WORLDS.keys())
def test_every_world_ends(seed: int, trouble: float, spec: dict[str, object]) -> None:
    sim, lag, job = Sim(seed, trouble), {}, a_job(max_failures=1000, **spec)
    for _ in range(4000):
        job = turn(sim, job, lag)
        if finish.is_finished(job.status):
            assert is_true(job.status.conditions, Type.SUCCEEDED)
            assert sim.step == STEPS
            return
    pytest.fail(f"seed {seed}: still {job.status.state} in incarnation {job.status.incarnation}; pods {sim.pods}")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spec", WORLDS.values(), ids=WORLDS.keys())
def test_once_the_faults_are_over_everybody_is_back_and_nothing_is_done_any_more(
    seed: int, spec: dict[str, object]
) -> None:
    sim, lag, job = Sim(seed, 0.2, steps=10**9, max_faults=20), {}, a_job(max_failures=1000, **spec)
    for _ in range(200):
        job = turn(sim, changed(sim, job), lag)
    sim.trouble, job = 0.0, replace(job, spec=replace(job.spec, workers=3))
    for _ in range(120):
        job = turn(sim, job, lag)
        sim.now += timedelta(seconds=5)  # back-off and settling are soon over
    counts = job.status.workers
    assert len(job.status.seats) == counts.active == 3
    assert counts.standby == (job.spec.standby or None) and len(sim.pods) == 3 + job.spec.standby
    answer = plan(observe(sim, job, lag), sim.now)
    assert (answer.actions, answer.wake_at) == ((), None)
    assert replace(answer.status, progress=job.status.progress, checkpoint=job.status.checkpoint) == job.status


@pytest.mark.parametrize("seed", range(20))
def test_marks_change_where_new_pods_go_and_nothing_else(seed: int) -> None:
    sim, lag, job, steered = Sim(seed, 0.1, steps=10**9), {}, a_job(max_failures=1000, standby=1), 0
    for _ in range(100):
        world = observe(sim, job, lag)
        lost = tuple(NodeFailure("bad", FailureClass.NODE, sim.now) for _ in range(2))
        plain, marked = plan(world, sim.now), plan(replace(world, others=(lost,)), sim.now)
        made = [a for a in marked.actions if isinstance(a, CreatePod)]
        steered += len(made)
        assert all("bad" in a.avoid for a in made)
        unsteered = [replace(a, avoid=()) if isinstance(a, CreatePod) else a for a in marked.actions]
        assert unsteered == [replace(a, avoid=()) if isinstance(a, CreatePod) else a for a in plain.actions]
        assert (marked.status, marked.wake_at) == (plain.status, plain.wake_at)
        job = turn(sim, job, lag)
    assert steered >= 4


def changed(sim: Sim, job: Job) -> Job:
    """Somebody changes spec.workers of an elastic job now and then."""
    if job.spec.min_workers is None or sim.random.random() > 0.03:
        return job
    return replace(job, spec=replace(job.spec, workers=sim.random.randint(job.spec.min_workers, 4)))


def check(world: World, answer: Plan) -> None:
    old, new = world.job.status, answer.status
    assert new.incarnation in (old.incarnation, old.incarnation + 1)
    assert new.attempts in (old.attempts, old.attempts + 1)
    if new.incarnation != old.incarnation:
        assert answer.actions == (), "intent first: the numbers or the pods, never both"
    else:
        assert new.seats == old.seats, "seats change with the incarnation only"
    if new.attempts != old.attempts:
        assert new.recoveries > old.recoveries and new.last_recovery.pod in {f"mnist-{i}" for i in old.seats}
    if new.recoveries == old.recoveries:
        assert (new.last_recovery is None) == (old.last_recovery is None) and len(new.charges) <= len(old.charges)
    check_seats(world, new)
    for action in answer.actions:
        if isinstance(action, CreatePod):
            assert action.incarnation == new.incarnation
        if isinstance(action, Assign) and (group := action.assignment.membership) is not None:
            place = action.assignment.group_rank
            assert group.workers == len(new.seats) and action.pod_uid == pod_at(world, new.seats[place]).uid


def check_seats(world: World, new: Status) -> None:
    """Whoever takes a seat is alive and connected at that moment."""
    old, spec = world.job.status, world.job.spec
    assert len(set(new.seats)) == len(new.seats)
    if new.incarnation != old.incarnation:
        assert (spec.min_workers or spec.workers) <= len(new.seats) <= spec.workers
    for index in set(new.seats) - set(old.seats) if old.seats else ():
        pod = pod_at(world, index)
        assert pod.exit is None and not pod.deleting and pod.agent.connected and pod.uid not in new.replacing


def pod_at(world: World, index: int) -> Pod:
    return next(p for p in world.pods if p.index == index)


@pytest.mark.parametrize("seed", range(60))
def test_the_same_world_planned_twice_gives_the_same_answer_and_then_rest(seed: int) -> None:
    sim, job, lag = Sim(seed, 0.1), a_job(max_failures=1000, standby=seed % 3, min_workers=(None, 1, 2)[seed % 3]), {}
    for _ in range(seed * 2):
        answer = plan(observe(sim, job, lag), sim.now)
        job = replace(job, status=answer.status)
        sim.obey(answer.actions)
        sim.live()
    world = World(job=job, pods=tuple(p.seen(sim) for p in sim.pods.values()), service_exists=sim.service)
    assert plan(world, sim.now) == plan(world, sim.now)
    for _ in range(5):  # with the pods standing still, a few passes bring the status to rest
        answer = plan(world, sim.now)
        world = replace(world, job=replace(world.job, status=answer.status))
    assert plan(world, sim.now).status == world.job.status


def test_a_job_that_always_fails_stops_at_its_budget() -> None:
    sim, job, lag = Sim(1, 0.0), a_job(workers=2, max_failures=3), {}
    for _ in range(400):
        answer = plan(observe(sim, job, lag), sim.now)
        job = replace(job, status=answer.status)
        sim.obey(answer.actions)
        if finish.is_finished(job.status):
            break
        sim.live()
        for pod in sim.pods.values():
            if pod.state is AgentState.RUNNING and pod.index == 1:
                pod.state = AgentState.FAILED
                pod.failure = Failure(
                    rank=1, local_rank=0, exit_code=1, failure_class=FailureClass.CODE, message=f"boom at {sim.now}"
                )
    assert is_true(job.status.conditions, Type.FAILED)
    assert job.status.attempts == 4 and job.status.incarnation == 4
