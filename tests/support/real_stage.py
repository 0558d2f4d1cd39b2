"""Operators as processes, played kubelets and agents, on a real API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disttrain_contract import labels
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Failure, Progress, Report
from disttrain_operator.shell.kinds import JOBS, Raw
from support.operator_process import Agent, OperatorProcess, Player
from support.own_apiserver import ApiServer


class Stage:
    """Server, operators, players."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.server, self.folder, self.player = server, folder, Player(server)
        self.operators: list[OperatorProcess] = []
        self.agents: list[Agent] = []

    def operator(self, name: str = "operator-0") -> OperatorProcess:
        made = OperatorProcess(self.server, self.folder, name)
        self.operators.append(made)
        return made

    async def submit(self, name: str, **spec: Any) -> Raw:
        whole = {"image": "trainer:1", "command": ["python", "train.py"], "workers": 2} | spec
        found = {"apiVersion": labels.API_VERSION, "kind": labels.KIND, "spec": whole}
        return await self.player.api.create(JOBS, found | {"metadata": {"name": name, "namespace": "team"}})

    async def agents_of(self, job: str, workers: int = 2) -> list[Agent]:
        """All pods up, all agents dialled."""
        found = []
        for index in range(workers):
            pod = await self.player.kubelet_starts(f"{job}-{index}")
            token = await self.player.token(pod)
            found.append(Agent(lambda: [o.stream_port for o in self.operators], token))
        self.agents += found
        return found

    async def running(self, job: str, incarnation: int = 1, **spec: Any) -> list[Agent]:
        """A job whose group has formed."""
        await self.submit(job, **spec)
        agents = await self.agents_of(job)
        await self.formed(job, agents, incarnation)
        return agents

    async def formed(self, job: str, agents: list[Agent], incarnation: int) -> None:
        for agent in agents:
            await self.player.until(lambda a=agent: a.told and a.told.membership and a.told.incarnation == incarnation)
            agent.say(Report(incarnation=incarnation, state=AgentState.RUNNING, progress=Progress(step=1)))
        await self.condition(job, "Running", "True")

    def fails(self, agent: Agent, incarnation: int) -> None:
        """Its rank raises. What agents then say of their next group is played by `formed`."""
        agent.say(
            Report(
                incarnation=incarnation, state=AgentState.FAILED,
                failure=Failure(rank=1, local_rank=0, exit_code=1, failure_class=FailureClass.CODE, message="ValueError: bad"),
            )
        )  # fmt: skip

    async def led(self, seconds: float = 120) -> OperatorProcess:
        """Somebody leads. As the kubelet does, an operator that has ended is started again."""

        def look() -> OperatorProcess | None:
            last = self.operators[-1]
            if last.process.poll() is not None:
                last = self.operator()
            return last if last.leads else None

        found: OperatorProcess = await self.player.until(look, seconds)
        return found

    async def condition(self, job: str, kind: str, status: str, seconds: float = 60) -> Raw:
        async def look() -> Raw | None:
            found = (await self.player.job(job)).get("status", {}).get("conditions", [])
            return next((c for c in found if c["type"] == kind and c["status"] == status), None)

        return await self.player.until(look, seconds)
