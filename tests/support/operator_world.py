"""The reconciler on a fake API server, among kubelets and agents that live by rounds of one second. No real time passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import (
    AgentState,
    Assignment,
    Checkpoint,
    Failure,
    Progress,
    Report,
    Restore,
    encode_within,
)
from disttrain_operator.channel.hub import AgentView as Heard
from disttrain_operator.core.finish import is_finished
from disttrain_operator.core.model import Status
from disttrain_operator.manifests import status
from disttrain_operator.manifests.pod import Stream
from disttrain_operator.reconciler import NotLeading, Reconciler
from disttrain_operator.shell.apply import Applier
from disttrain_operator.shell.cache import Cache
from disttrain_operator.shell.errors import ClusterError
from disttrain_operator.shell.kinds import JOBS, PODS, Raw
from disttrain_operator.shell.lookups import Lookups
from disttrain_operator.shell.metrics import Metrics
from disttrain_operator.shell.recorder import Recorder
from support.fake_kube import Crash, FakeKube, tell
from support.raw_objects import NOW, a_raw_job

KEY = ("team", "mnist")
STEPS, SAVE_EVERY = 12, 4


@dataclass
class Agent:
    """One agent and its rank."""

    index: int
    rank: int | None = None
    """Its place in the group it has joined."""
    size: int = 0
    """Of that group."""
    joined: int = 0
    seen: int = 0
    state: AgentState = AgentState.IDLE
    dialled: bool = False
    failure: Failure | None = None
    told: Assignment | None = None
    cut_off: bool = False
    """Its node is gone: nobody hears of it, and the kubelet does nothing."""


@dataclass
class Training:
    """What the ranks do together."""

    step: int = 0
    by: int = 0
    saved: Checkpoint | None = None
    started_from: int = 0
    history: list[tuple[int, int]] = field(default_factory=list)


class World:
    """`faults[step]` happens once, when training has reached that step."""

    def __init__(
        self,
        workers: int = 3,
        faults: dict[int, Callable[[World], None]] | None = None,
        steps: int = STEPS,
        **spec: object,
    ) -> None:
        self.kube, self.now, self.steps = FakeKube(), NOW, steps
        self.agents: dict[str, Agent] = {}
        self.training = Training()
        self.faults = dict(faults or {})
        self.deaf_rounds = 0
        self.crashes = 0
        self.leading = True
        volume = {"volume": {"size": "1Gi"}}
        self.kube.put(JOBS, a_raw_job(uid="job-uid", workers=workers, checkpoint=volume, **spec))
        self.start_operator()

    # -- the operator ---------------------------------------------------------------------------------------------
    def start_operator(self) -> None:
        """A new process: it knows only what it lists."""
        self.cache, self.metrics, self.led_at = Cache(), Metrics(), self.now
        self.kube.told.clear()
        for (plural, _, _), found in self.kube.objects.items():
            if plural in (JOBS.plural, PODS.plural):
                tell(self.cache, "ADDED", found)
        for agent in self.agents.values():
            agent.dialled = False
        lookups = Lookups(self.kube)
        self.reconciler = Reconciler(
            api=self.kube, cache=self.cache, lookups=lookups, recorder=Recorder(self.kube, "operator-0"), metrics=self.metrics,
            applier=Applier(self.kube, self.cache, lookups, self.assign, lambda: Stream(url="ws://operator:1")),
            heard=self.heard, leading_seconds=lambda: (self.now - self.led_at).total_seconds(),
            is_leader=lambda: self.leading, now=lambda: self.now,
        )  # fmt: skip

    def heard(self, uid: str) -> Heard:
        agent = self.agents.get(uid)
        if agent is None or not agent.dialled:
            return Heard()
        return Heard(report=self.report(agent), report_age=0.0, connected=True, last_heard_age=0.0)

    def assign(self, uid: str, assignment: Assignment) -> bool:
        agent = self.agents.get(uid)
        if agent is None or not agent.dialled:
            return False
        agent.told = assignment
        return True

    async def round(self) -> None:
        """The watch speaks, the operator passes, a second goes by."""
        if self.deaf_rounds:
            self.deaf_rounds -= 1
        else:
            self.kube.deliver(self.cache)
        try:
            for _ in range(6):
                if await self.reconciler.reconcile(KEY) != 0.0:
                    break
        except (ClusterError, NotLeading):
            pass  # the queue would back off
        except Crash:
            self.crashes += 1
            self.start_operator()
        self.live()
        self.now += timedelta(seconds=1)

    async def until(self, done: Callable[[World], bool], rounds: int = 300) -> None:
        for _ in range(rounds):
            if done(self):
                return
            await self.round()
        raise AssertionError(f"still {self.status.state} in incarnation {self.status.incarnation}: {self.agents}")

    @property
    def status(self) -> Status:
        found = self.kube.named(JOBS).get("mnist", {})
        return status.from_wire(found.get("status"))

    @property
    def finished(self) -> bool:
        return is_finished(self.status)

    # -- kubelets and agents --------------------------------------------------------------------------------------
    def live(self) -> None:
        for name, pod in self.kube.named(PODS).items():
            self._kubelet(name, pod)
        self.agents = {p["metadata"]["uid"]: a for p in self.kube.named(PODS).values() if (a := self._agent_of(p))}
        for agent in self.agents.values():
            self._obey(agent)
        self._train()

    def _kubelet(self, name: str, pod: Raw) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self.agents and self.agents[uid].cut_off:
            return
        if "deletionTimestamp" in pod["metadata"]:
            self.kube.remove(PODS, "team", name)
        elif pod["status"]["phase"] == "Pending":
            index = int(name.rsplit("-", 1)[1])
            self.agents[uid] = Agent(index)
            up = {"phase": "Running", "podIP": f"198.18.0.{index + 1}"}
            self.kube.change(PODS, "team", name, lambda found: found.update(status=up))

    def _agent_of(self, pod: Raw) -> Agent | None:
        agent = self.agents.get(pod["metadata"]["uid"])
        return agent if agent is not None and pod["status"]["phase"] == "Running" else None

    def _obey(self, agent: Agent) -> None:
        agent.dialled = not agent.cut_off
        if agent.cut_off:
            return
        told = agent.told
        if told is None or told.incarnation < agent.seen:
            return
        agent.seen = told.incarnation
        if told.stop is not None:
            agent.state = AgentState.STOPPED
            self.end(agent, 143)
        elif told.incarnation > agent.joined:
            agent.state, agent.failure, agent.rank = AgentState.IDLE, None, None
            if told.membership is not None:
                agent.joined, agent.state = told.incarnation, AgentState.RUNNING
                agent.rank, agent.size = told.group_rank, told.membership.workers

    def report(self, agent: Agent) -> Report:
        leads = agent.rank == 0 and agent.joined == self.training.by and agent.joined > 0
        source = "volume" if self.training.started_from else "none"
        restore = Restore(step=self.training.started_from, source=source, digest="d") if leads else None
        return Report(
            incarnation=agent.seen, state=agent.state, failure=agent.failure, restore=restore,
            progress=Progress(step=self.training.step, total_steps=self.steps) if leads else None,
            checkpoint=self.training.saved if leads else None,
        )  # fmt: skip

    def _train(self) -> None:
        at_work = [a for a in self.agents.values() if a.state is AgentState.RUNNING and not a.cut_off]
        for incarnation in {a.joined for a in at_work}:
            ranks = [a for a in at_work if a.joined == incarnation]
            if {a.rank for a in ranks} == set(range(max(a.size for a in ranks))):
                self._step(incarnation, ranks)
            elif incarnation == self.training.by:
                for victim in ranks:
                    self.fail(victim, "Connection closed by peer", FailureClass.NETWORK)

    def _step(self, incarnation: int, ranks: list[Agent]) -> None:
        training = self.training
        assert incarnation >= training.by, "an old incarnation trained after a newer one"
        if incarnation > training.by:
            training.by = incarnation
            training.step = training.started_from = training.saved.step if training.saved else 0
        if training.step < self.steps:  # a suspension may come when all is done, and a resume after it
            training.step += 1
            training.history.append((incarnation, training.step))
        if training.step % SAVE_EVERY == 0:
            training.saved = Checkpoint(step=training.step, digest="d", path="p", incarnation=incarnation, time="")
        if (fault := self.faults.pop(training.step, None)) is not None:
            fault(self)
        elif training.step >= self.steps:
            for rank in ranks:
                rank.state = AgentState.FINISHED
                self.end(rank, 0)

    # -- faults ---------------------------------------------------------------------------------------------------
    def by_index(self, index: int) -> Agent:
        return next(a for a in self.agents.values() if a.index == index)

    def fail(self, agent: Agent, message: str, kind: FailureClass = FailureClass.CODE) -> None:
        """A rank raises; its agent stays and says so."""
        agent.state = AgentState.FAILED
        agent.failure = Failure(
            rank=agent.rank if agent.rank is not None else agent.index,
            local_rank=0,
            exit_code=1,
            failure_class=kind,
            message=message,
            step=self.training.step,
        )

    def end(self, agent: Agent, code: int) -> None:
        """The container ends, with last words."""
        words = encode_within(self.report(agent), 4096)
        state = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": words}}
        over = {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [{"name": "trainer", "state": state}]}  # fmt: skip
        self.kube.change(PODS, "team", f"mnist-{agent.index}", lambda pod: pod["status"].update(over))

    def vanish(self, index: int) -> None:
        """Somebody force-deletes a pod."""
        self.kube.remove(PODS, "team", f"mnist-{index}")


def process_fails(index: int) -> Callable[[World], None]:
    return lambda world: world.fail(world.by_index(index), "ValueError: bad batch")


def pod_vanishes(index: int) -> Callable[[World], None]:
    return lambda world: world.vanish(index)


def without_times(found: Status) -> Status:
    """What must be the same however long it took."""
    return replace(found, start_time=None, completion_time=None, restart_after=None)


def seconds_between(a: datetime | None, b: datetime | None) -> float:
    assert a is not None and b is not None
    return (b - a).total_seconds()
