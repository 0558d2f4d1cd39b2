"""What the operator stands on is taken away under a running job: its rights, the CRD, the namespace; and changed."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import yaml

from disttrain_contract.messages import AgentState, Progress, Report
from disttrain_operator.shell.errors import NotFound
from disttrain_operator.shell.kinds import JOBS, PODS, Raw
from support import own_apiserver
from support.own_apiserver import REPOSITORY
from support.real_stage import Stage

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

CRD = REPOSITORY / "crds"


def without(rights: list[dict[str, Any]], resource: str, verb: str) -> list[dict[str, Any]]:
    """The same roles, but for this."""
    found = copy.deepcopy([r for r in rights if "rules" in r])
    for rule in (rule for role in found for rule in role["rules"] if resource in rule["resources"]):
        rule["verbs"] = [v for v in rule["verbs"] if v != verb]
    return found


async def test_a_right_that_is_taken_away_is_a_condition_and_all_goes_on_when_it_is_back(stage: Stage) -> None:
    operator, rights = stage.operator(), own_apiserver.rights()
    agents = await stage.running("mnist")
    stage.server.apply(*without(rights, "pods", "create"))
    try:
        old = await stage.player.api.get(PODS, "team", "mnist-1")
        await stage.player.api.delete(PODS, "team", "mnist-1", old["metadata"]["uid"], grace=0)
        said = await stage.player.until(lambda: refused(stage))
        assert 'cannot create resource "pods"' in said["message"]
    finally:
        stage.server.apply(*rights)
    pod = await stage.player.until(lambda: stage.player.api.get(PODS, "team", "mnist-1"))
    assert pod["metadata"]["uid"] != old["metadata"]["uid"] and operator.leads
    assert agents[0].told is not None and agents[0].told.incarnation == 2


async def refused(stage: Stage) -> dict[str, Any] | None:
    ready = await stage.condition("mnist", "WorkersReady", "False")
    return ready if ready["reason"] == "PodRefused" else None


async def test_without_the_right_to_its_lease_the_operator_ends_and_training_goes_on(stage: Stage) -> None:
    first = stage.operator()
    agents = await stage.running("mnist")
    rights = own_apiserver.rights()
    stage.server.apply(*without(rights, "leases", "update"))
    try:
        assert await asyncio.to_thread(first.process.wait, 60) == 1
        assert "forbidden" in first.log.read_text() and "could not be renewed" in first.log.read_text()
    finally:
        stage.server.apply(*rights)
    second = await stage.led()
    await stage.player.until(lambda: second.count("agents_connected") == 2)
    assert (await stage.player.job("mnist"))["status"]["incarnation"] == 1
    assert all(a.told is not None and a.told.stop is None for a in agents)


async def test_a_second_version_of_the_crd_changes_nothing_for_a_running_job(stage: Stage) -> None:
    operator = stage.operator()
    agents = await stage.running("mnist")
    (crd,) = yaml.safe_load_all("---".join(file.read_text() for file in CRD.glob("*.yaml")))
    newer = copy.deepcopy(crd)
    version = copy.deepcopy(newer["spec"]["versions"][0]) | {"name": "v1beta1", "storage": False}
    newer["spec"]["versions"].append(version)
    stage.server.apply(newer)
    try:
        await stage.player.until(lambda: "v1beta1" in stage.server.kubectl("get", "--raw", "/apis/disttrain.dev"))
        stage.fails(agents[1], incarnation=1)
        await stage.formed("mnist", agents, incarnation=2)
        job = stage.server.kubectl("get", "--raw", "/apis/disttrain.dev/v1beta1/namespaces/team/disttrainjobs/mnist")
        assert '"incarnation":2' in job and operator.leads
    finally:
        stage.server.apply(crd)


async def test_a_crd_that_is_deleted_takes_its_jobs_and_a_new_one_is_worked_with(stage: Stage) -> None:
    stage.operator()
    await stage.running("mnist")
    stage.server.kubectl("delete", "-f", str(CRD), "--wait=true")
    with pytest.raises(NotFound):
        await stage.player.api.get(JOBS, "team", "mnist")
    stage.server.kubectl(
        "delete", "pods", "--all", "-n", "team", "--grace-period=0", "--force"
    )  # the garbage collector
    await asyncio.sleep(1)
    own_apiserver.with_crds(stage.server)
    await stage.led()
    again = asyncio.create_task(stage.running("again"))
    while not again.done():  # the operator may end on the way, when it loses its watch
        await stage.led()
        await asyncio.sleep(0.5)
    await again


async def test_a_namespace_that_goes_under_a_running_job_takes_it_along_and_harms_nobody(stage: Stage) -> None:
    operator = stage.operator()
    await stage.running("mnist")
    stage.server.kubectl("delete", "namespace", "team", "--wait=false")
    try:
        pod = await stage.player.api.get(PODS, "team", "mnist-1")
        await stage.player.api.delete(PODS, "team", "mnist-1", pod["metadata"]["uid"], grace=0)
        said = await stage.player.until(lambda: refused(stage))
        assert "because it is being terminated" in said["message"]
    finally:
        finalize(stage)
    await stage.player.until(lambda: 'disttrain_jobs{state="' not in operator.get("/metrics"))
    assert operator.leads and operator.process.poll() is None
    await stage.running("mnist")


def finalize(stage: Stage) -> None:
    """What the namespace controller does; and the next one of that name."""
    stage.server.kubectl("delete", "dtj,pods,svc,pvc,sa", "--all", "-n", "team", "--grace-period=0", "--force")
    done = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}, "spec": {"finalizers": []}}'
    stage.server.kubectl("replace", "--raw", "/api/v1/namespaces/team/finalize", "-f", "-", text=done)
    stage.server.kubectl("wait", "--for=delete", "namespace/team", "--timeout=30s")
    own_apiserver.team(stage.server)


async def test_a_node_that_is_drained_gives_its_pod_the_time_to_save_and_another_pod_comes_uncharged(
    stage: Stage,
) -> None:
    """By kubectl drain, which evicts; the kubelet is played."""
    stage.operator()
    agents = await stage.running("mnist")
    stage.server.kubectl(
        "create", "-f", "-", text='{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}'
    )
    old = await stage.player.api.get(PODS, "team", "mnist-1")
    try:
        drain = [
            "drain",
            "node-1",
            "--force",
            "--delete-emptydir-data",
            "--pod-selector",
            "disttrain.dev/worker-index=1",
        ]
        drained = asyncio.create_task(asyncio.to_thread(stage.server.kubectl, *drain))
        going = await stage.player.until(lambda: on_its_way_out(stage, "mnist-1"))
        assert going["metadata"]["deletionGracePeriodSeconds"] > 0
        assert agents[0].told is not None and agents[0].told.incarnation == 1, "it may finish its checkpoint first"
        agents[1].say(Report(incarnation=1, state=AgentState.STOPPED, progress=Progress(step=7)))
        await agents[1].stop()
        await stage.player.api.delete(PODS, "team", "mnist-1", old["metadata"]["uid"], grace=0)
        assert "drained" in await drained
    finally:
        stage.server.kubectl("delete", "nodes", "--all")
    status = (await stage.player.until(lambda: in_incarnation(stage, 2)))["status"]
    assert (status.get("attempts", 0), status["recovery"]["last"]["class"]) == (0, "PodLost")
    pod = await stage.player.until(lambda: stage.player.api.get(PODS, "team", "mnist-1"))
    assert pod["metadata"]["uid"] != old["metadata"]["uid"]


async def on_its_way_out(stage: Stage, name: str) -> Raw | None:
    found = await stage.player.api.get(PODS, "team", name)
    return found if "deletionTimestamp" in found["metadata"] else None


async def in_incarnation(stage: Stage, number: int) -> Raw | None:
    job = await stage.player.job("mnist")
    return job if job["status"]["incarnation"] == number else None
