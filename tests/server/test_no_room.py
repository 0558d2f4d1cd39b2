"""A real scheduler, on nodes that are objects only; and an operator that reaches the memory limit of its container."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dev.cluster.paths import current_paths

from support.limits import own_group
from support.own_apiserver import ApiServer
from support.real_stage import Agent, Stage

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@contextmanager
def scheduler(server: ApiServer, folder: Path) -> Iterator[None]:
    command = [
        str(current_paths().bin / "kube-scheduler"), f"--kubeconfig={server.kubeconfig('admin')}", "--leader-elect=false",
        "--secure-port=0",
    ]  # fmt: skip
    with (folder / "scheduler.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait(20)


def a_node(server: ApiServer, name: str, cpu: str) -> None:
    """It is there, and ready for so much."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    server.kubectl("create", "-f", "-", text=json.dumps(node))
    room = {"cpu": cpu, "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"}
    ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}]
    status = json.dumps({"status": {"capacity": room, "allocatable": room, "conditions": ready}})
    server.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", status)
    server.kubectl("patch", "node", name, "--type=merge", "-p", '{"spec": {"taints": null}}')


async def test_half_a_group_is_placed_and_nobody_trains_before_the_other_half_is(stage: Stage, tmp_path: Path) -> None:
    stage.operator()
    a_node(stage.server, "node-1", cpu="1")
    try:
        with scheduler(stage.server, tmp_path):
            await stage.submit("mnist", resources={"limits": {"cpu": "700m", "memory": "1Gi"}})
            ready = await stage.player.until(lambda: unschedulable(stage))
            assert "Insufficient cpu" in ready
            pods = await stage.player.pods("mnist")
            (placed,) = [p["metadata"]["name"] for p in pods if p["spec"].get("nodeName")]
            (other,) = {"mnist-0", "mnist-1"} - {placed}
            agents = {placed: await scheduled(stage, placed)}
            await stage.player.until(lambda: agents[placed].told)
            assert agents[placed].told is not None and agents[placed].told.membership is None, "it waits"
            a_node(stage.server, "node-2", cpu="1")
            await stage.player.until(lambda: on_a_node(stage, other))
            agents[other] = await scheduled(stage, other)
            await stage.formed("mnist", [agents["mnist-0"], agents["mnist-1"]], incarnation=1)
    finally:
        stage.server.kubectl("delete", "nodes", "--all")


async def unschedulable(stage: Stage) -> str | None:
    ready = await stage.condition("mnist", "WorkersReady", "False")
    return str(ready["message"]) if ready["reason"] == "Unschedulable" else None


async def on_a_node(stage: Stage, name: str) -> bool:
    return any(p["metadata"]["name"] == name and p["spec"].get("nodeName") for p in await stage.player.pods("mnist"))


async def scheduled(stage: Stage, name: str) -> Agent:
    """Its kubelet starts it, and its agent dials."""
    token = await stage.player.token(await stage.player.kubelet_starts(name, bind=False))
    stage.agents.append(Agent(lambda: [o.stream_port for o in stage.operators], token))
    return stage.agents[-1]


async def test_an_operator_that_reaches_its_memory_limit_is_killed_and_the_next_one_goes_on(stage: Stage) -> None:
    first = stage.operator()
    agents = await stage.running("mnist")
    with own_group() as group:
        group.enter(first.process.pid)
        group.limit_memory(group.memory() + 1024 * 1024)
        for number in range(200):
            if first.process.poll() is not None:
                break
            await stage.submit(f"more-{number}", suspend=True)
        assert await asyncio.to_thread(first.process.wait, 60) == -signal.SIGKILL, "by the kernel"
    second = await stage.led()
    await stage.player.until(lambda: second.count("agents_connected") == 2)
    assert (await stage.player.job("mnist"))["status"]["incarnation"] == 1
    stage.fails(agents[1], incarnation=1)
    await stage.formed("mnist", agents, incarnation=2)
