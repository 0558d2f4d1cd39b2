"""The operator as a process, on a real API server, with no more rights than the chart gives it."""

from __future__ import annotations

import asyncio
import signal

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Failure, Progress, Report, encode_within
from disttrain_operator.manifests import claim, pod, service
from disttrain_operator.manifests.pod import Stream
from disttrain_operator.shell.kinds import CLAIMS, LEASES, PODS, SERVICES, Raw
from support import own_apiserver
from support.operator_process import Agent
from support.raw_objects import a_seen_job
from support.real_stage import Stage

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


EVERYTHING = {
    "resources": {"limits": {"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": 1}},
    "checkpoint": {"volume": {"size": "1Gi"}},
    "volumes": [{"name": "data", "mountPath": "/data", "configMap": {"name": "c"}}],
    "env": [{"name": "A", "value": "$(B)"}, {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {"a": "b"},
    "podTemplate": {"labels": {"team": "vision"}, "securityContext": {"runAsUser": 2000, "supplementalGroups": [3000]}},
}  # fmt: skip


async def test_the_server_takes_every_manifest_under_the_restricted_standard(stage: Stage) -> None:
    job = await stage.submit("whole", **EVERYTHING)
    seen = a_seen_job("whole", uid=job["metadata"]["uid"], **EVERYTHING)
    assert seen.invalid is None and seen.spec.claim is not None
    for kind, manifest in (
        (PODS, pod.pod(seen, 0, 1, Stream(url="wss://operator:8443", ca="PEM"))),
        (SERVICES, service.service(seen)),
        (CLAIMS, claim.claim(seen, seen.spec.claim)),
    ):
        made = await stage.player.api.create(kind, manifest)
        assert manifest["metadata"].items() <= made["metadata"].items(), "nothing was dropped"


async def test_a_job_becomes_a_group_and_its_end_is_seen(stage: Stage) -> None:
    operator = stage.operator()
    agents = await stage.running("mnist", checkpoint={"volume": {"size": "1Gi"}})
    members = agents[0].told.membership
    assert (members.workers, members.master_addr, members.master_port) == (2, "198.18.0.1", 29501)
    for index, agent in enumerate(agents):
        done = Report(incarnation=1, state=AgentState.FINISHED, progress=Progress(step=9))
        agent.say(done)
        await agent.stop()
        await stage.player.kubelet_ends(f"mnist-{index}", 0, encode_within(done, 4096))
    await stage.condition("mnist", "Succeeded", "True")
    job = await stage.player.job("mnist")
    assert job["status"]["state"] == "Succeeded" and job["status"]["progress"]["step"] == 9
    assert not job["metadata"].get("finalizers") and "annotations" not in job["metadata"]
    events = stage.server.kubectl("get", "events", "-n", "team")
    assert events.count("Accepted") == 1 and events.count("WorkersFinished") == 1
    counted = numbers(operator.get("/metrics"))
    assert all(
        counted[f"disttrain_{name}"] > 0 for name in ("workqueue_adds_total", 'reconcile_total{result="success"}')
    )
    assert counted['disttrain_jobs{state="Succeeded"}'] == 1 and counted["disttrain_leader"] == 1
    assert counted['disttrain_api_requests_total{code="201",resource="pods",verb="create"}'] == 2
    assert counted['disttrain_watch_events_total{resource="pods"}'] > 2


async def test_the_table_says_what_people_want_to_know(stage: Stage) -> None:
    stage.operator()
    await stage.running("mnist")
    table = stage.server.kubectl("get", "dtj", "-n", "team").splitlines()
    assert table[0].split() == ["NAME", "STATE", "WORKERS", "STEP", "LOSS", "RECOVERIES", "AGE"]
    assert table[1].split()[:3] == ["mnist", "Running", "2/2"]


async def test_a_kill_of_the_operator_changes_nothing_for_a_job_that_goes_on(stage: Stage) -> None:
    first = stage.operator()
    agents = await stage.running("mnist")
    await asyncio.sleep(6)  # the progress that was held back is written
    before = (await stage.player.job("mnist"))["metadata"]["resourceVersion"]
    first.end(hard=True)
    second = stage.operator()
    await stage.player.until(lambda: second.leads)
    await stage.player.until(lambda: "disttrain_agents_connected 2.0" in second.get("/metrics"))
    await asyncio.sleep(3)
    assert (await stage.player.job("mnist"))["metadata"]["resourceVersion"] == before
    assert all(a.told.incarnation == 1 for a in agents)


async def test_a_failure_while_nobody_leads_is_handled_by_the_next_one(stage: Stage) -> None:
    first = stage.operator()
    agents = await stage.running("mnist")
    first.end(hard=True)
    agents[1].say(
        Report(
            incarnation=1, state=AgentState.FAILED,
            failure=Failure(rank=1, local_rank=0, exit_code=1, failure_class=FailureClass.CODE, message="ValueError: bad"),
        )
    )  # fmt: skip
    stage.operator()
    await stage.condition("mnist", "Restarting", "True")
    for agent in agents:
        agent.say(Report(incarnation=1, state=AgentState.IDLE))
    await stage.formed("mnist", agents, incarnation=2)
    status = (await stage.player.job("mnist"))["status"]
    assert (status["incarnation"], status["attempts"], status["recovery"]["count"]) == (2, 1, 1)
    assert status["recovery"]["last"]["cause"] == "ValueError: bad"
    assert len(await stage.player.pods("mnist")) == 2


async def test_a_standby_takes_the_place_of_a_lost_pod(stage: Stage) -> None:
    stage.operator()
    await stage.submit("mnist", standby=1)
    agents = await stage.agents_of("mnist", workers=3)
    await stage.formed("mnist", agents[:2], incarnation=1)
    await stage.condition("mnist", "StandbyReady", "True")
    assert agents[2].told.membership is None
    lost = await stage.player.api.get(PODS, "team", "mnist-0")
    await stage.player.api.delete(PODS, "team", "mnist-0", lost["metadata"]["uid"], grace=0)
    await stage.formed("mnist", [agents[2], agents[1]], incarnation=2)
    assert (agents[2].told.group_rank, agents[2].told.membership.master_addr) == (0, "198.18.0.3")
    status = (await stage.player.job("mnist"))["status"]
    assert (status["seats"], status["incarnation"], status["workers"]["summary"]) == ([2, 1], 2, "2/2")
    assert len(await stage.player.pods("mnist")) == 3, "another one is made behind it"


async def test_an_elastic_job_goes_on_smaller_and_only_its_number_of_workers_may_change(stage: Stage) -> None:
    stage.operator()
    agents = await stage.running("mnist", elastic={"minWorkers": 1, "maxWorkers": 3})
    lost = await stage.player.api.get(PODS, "team", "mnist-0")
    await stage.player.api.delete(PODS, "team", "mnist-0", lost["metadata"]["uid"], grace=0)
    await stage.formed("mnist", agents[1:], incarnation=2)
    assert agents[1].told.membership.workers == 1
    assert (await stage.player.job("mnist"))["status"]["seats"] == [1]
    for workers, answer in ((3, "patched"), (4, "must be between"), (2, "patched")):
        patch = f'{{"spec": {{"workers": {workers}}}}}'
        assert answer in stage.server.kubectl("patch", "dtj", "mnist", "-n", "team", "--type=merge", "-p", patch, check=False)  # fmt: skip
    await stage.submit("rigid")
    refused = stage.server.kubectl("patch", "dtj", "rigid", "-n", "team", "--type=merge", "-p", '{"spec": {"workers": 3}}', check=False)  # fmt: skip
    assert "spec.workers cannot be changed after creation without spec.elastic" in refused


async def test_a_deleted_pod_is_made_again(stage: Stage) -> None:
    stage.operator()
    await stage.running("mnist")
    old = await stage.player.api.get(PODS, "team", "mnist-1")
    await stage.player.api.delete(PODS, "team", "mnist-1", old["metadata"]["uid"], grace=0)

    async def replaced() -> bool:
        found = await stage.player.api.get(PODS, "team", "mnist-1")
        return found["metadata"]["uid"] != old["metadata"]["uid"]

    await stage.player.until(replaced)
    status = (await stage.player.job("mnist"))["status"]
    assert (status["incarnation"], status.get("attempts", 0)) == (2, 0)


async def test_the_follower_refuses_agents_and_takes_over_at_once_after_an_orderly_end(stage: Stage) -> None:
    first = stage.operator("operator-0")
    agents = await stage.running("mnist")
    second = stage.operator("operator-1")
    await stage.player.until(lambda: second.get("/readyz") == "ok\n")
    assert first.leads and not second.leads, "both are ready, one leads"
    stranger = Agent(
        lambda: [second.stream_port], await stage.player.token(await stage.player.api.get(PODS, "team", "mnist-0"))
    )
    stage.agents.append(stranger)
    await stage.player.until(lambda: stranger.refused)
    assert (set(stranger.refused), stranger.told) == ({503}, None), "who does not lead sends agents on"
    await stranger.stop()
    assert first.end(hard=False) == 0
    await stage.player.until(lambda: second.leads, 10)
    await stage.player.until(lambda: "disttrain_agents_connected 2.0" in second.get("/metrics"))
    assert all(agent.told and agent.told.incarnation == 1 for agent in agents), "the group never noticed"


async def test_a_leader_that_was_frozen_writes_nothing_when_it_wakes(stage: Stage) -> None:
    first = stage.operator("operator-0")
    await stage.running("mnist")
    second = stage.operator("operator-1")
    first.process.send_signal(signal.SIGSTOP)
    await stage.player.until(lambda: second.leads, 60)
    first.process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(first.process.wait, 30) == 1, "it ends by itself"
    assert "could not be renewed" in first.log.read_text()
    lease = await stage.player.api.get(LEASES, "disttrain-system", "disttrain")
    assert lease["spec"]["holderIdentity"] == "operator-1"


async def test_a_token_of_no_pod_is_shown_the_door(stage: Stage) -> None:
    operator = stage.operator()
    await stage.player.until(lambda: operator.leads)
    impostor = Agent(lambda: [operator.stream_port], "operator-token")
    stage.agents.append(impostor)
    await stage.player.until(lambda: 401 in impostor.refused)


async def test_the_operator_waits_for_its_crd_and_then_begins(stage: Stage) -> None:
    crd = own_apiserver.REPOSITORY / "crds"
    stage.server.kubectl("delete", "-f", str(crd), "--wait=true")
    impatient, operator = stage.operator("operator-0"), stage.operator("operator-1")
    for each in (impatient, operator):
        await stage.player.until(lambda e=each: "no CustomResourceDefinition" in e.log.read_text())
        assert each.get("/healthz") == "ok\n"
    assert impatient.end(hard=False) == 0, "it can be stopped while it waits"
    own_apiserver.with_crds(stage.server)
    await stage.running("mnist")


async def test_suspend_frees_the_pods_and_resume_goes_on(stage: Stage) -> None:
    stage.operator()
    agents = await stage.running("mnist")
    patch = ["patch", "dtj", "mnist", "-n", "team", "--type=merge", "-p"]
    stage.server.kubectl(*patch, '{"spec":{"suspend":true}}')
    for index, agent in enumerate(agents):
        await agent.stop()
        pod = await stage.player.until(lambda i=index: going(stage, f"mnist-{i}"))
        await stage.player.api.delete(PODS, "team", f"mnist-{index}", pod["metadata"]["uid"], grace=0)
    await stage.condition("mnist", "Suspended", "True")
    stage.server.kubectl(*patch, '{"spec":{"suspend":false}}')
    await stage.formed("mnist", await stage.agents_of("mnist"), incarnation=2)


def numbers(scraped: str) -> dict[str, float]:
    """Prometheus' text, read."""
    lines = [line.rsplit(" ", 1) for line in scraped.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def going(stage: Stage, name: str) -> Raw | None:
    """The pod, once it is on its way out."""
    found = await stage.player.api.get(PODS, "team", name)
    return found if "deletionTimestamp" in found["metadata"] else None
