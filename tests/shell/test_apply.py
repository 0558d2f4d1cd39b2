from __future__ import annotations

from typing import Any

from disttrain_contract.messages import Assignment
from disttrain_operator.core.actions import Action, Assign, CreateClaim, CreatePod, CreateService, DeleteJob, DeletePod
from disttrain_operator.core.model import Job, Pod
from disttrain_operator.manifests.pod import Stream
from disttrain_operator.shell.apply import Applier, Problem
from disttrain_operator.shell.cache import Cache
from disttrain_operator.shell.errors import Refused
from disttrain_operator.shell.kinds import CLAIMS, JOBS, PODS, SERVICES
from disttrain_operator.shell.lookups import Lookups
from support.fake_kube import FakeKube, Write
from support.raw_objects import NOW, a_raw_job, a_raw_pod, a_seen_job

KEY = ("team", "mnist")


class Rig:
    def __init__(self, **spec: Any) -> None:
        self.kube, self.cache, self.told = FakeKube(), Cache(), []
        self.lookups = Lookups(self.kube)
        self.job: Job = a_seen_job(**spec)
        self.applier = Applier(self.kube, self.cache, self.lookups, self.assign, lambda: Stream(url="ws://operator"))

    def assign(self, uid: str, assignment: Assignment) -> None:
        self.told.append((uid, assignment))

    async def apply(self, *actions: Action) -> tuple[Problem, ...]:
        return await self.applier.apply(self.job, actions, NOW)

    def pods(self) -> tuple[Pod, ...]:
        return self.cache.pods(KEY, "job-uid")


async def test_a_made_pod_is_known_before_the_watch_tells_of_it() -> None:
    rig = Rig()
    assert await rig.apply(CreatePod(1, 4)) == ()
    assert [(p.name, p.index, p.incarnation, p.foreign) for p in rig.pods()] == [("mnist-1", 1, 4, False)]


async def test_a_pod_that_was_made_already_is_taken_in() -> None:
    rig = Rig()
    rig.kube.put(PODS, a_raw_pod(1))
    assert await rig.apply(CreatePod(1, 1)) == ()
    assert [p.uid for p in rig.pods()] == ["uid-1"]


async def test_a_pod_of_an_earlier_job_of_that_name_is_not_ours() -> None:
    rig = Rig()
    rig.kube.put(PODS, a_raw_pod(1, owner="earlier"))
    assert await rig.apply(CreatePod(1, 1)) == ()
    assert [p.foreign for p in rig.pods()] == [True]


async def test_a_pod_without_our_label_is_remembered_though_no_watch_shows_it() -> None:
    rig = Rig()
    rig.kube.put(PODS, {"kind": "Pod", "metadata": {"name": "mnist-1", "namespace": "team"}})
    assert await rig.apply(CreatePod(1, 1)) == ()
    assert [(p.index, p.foreign) for p in rig.lookups.strangers(KEY, NOW)] == [(1, True)]


async def test_a_deleted_pod_is_known_to_be_on_its_way_out() -> None:
    rig = Rig()
    rig.cache.pod_seen(rig.kube.put(PODS, a_raw_pod(1)))
    assert await rig.apply(DeletePod("mnist-1", "uid-1")) == ()
    assert [p.deleting for p in rig.pods()] == [True]


async def test_a_force_deleted_pod_is_gone_at_once() -> None:
    rig = Rig()
    rig.cache.pod_seen(rig.kube.put(PODS, a_raw_pod(1)))
    assert await rig.apply(DeletePod("mnist-1", "uid-1", force=True)) == ()
    assert rig.pods() == () and not rig.kube.named(PODS)


async def test_a_pod_that_is_gone_already_is_success() -> None:
    rig = Rig()
    rig.cache.pod_seen(a_raw_pod(1))
    assert await rig.apply(DeletePod("mnist-1", "uid-1")) == ()
    assert rig.pods() == ()


async def test_a_delete_never_hits_the_successor() -> None:
    rig = Rig()
    rig.cache.pod_seen(a_raw_pod(1, uid="old"))
    rig.kube.put(PODS, a_raw_pod(1, uid="new"))
    assert await rig.apply(DeletePod("mnist-1", "old")) == ()
    assert rig.pods() == () and "deletionTimestamp" not in rig.kube.named(PODS)["mnist-1"]["metadata"]


async def test_a_service_and_a_claim_that_exist_are_success_and_looked_at_again() -> None:
    rig = Rig(checkpoint={"volume": {"size": "1Gi"}})
    wanted = rig.job.spec.claim
    assert wanted is not None
    await rig.lookups.children(rig.job, NOW)
    for _ in range(2):
        assert await rig.apply(CreateService(), CreateClaim(wanted)) == ()
    found = await rig.lookups.children(rig.job, NOW)
    assert found.service_exists and found.claim is not None
    assert len(rig.kube.named(SERVICES)) == len(rig.kube.named(CLAIMS)) == 1


async def test_claim_and_service_come_before_the_pods() -> None:
    rig = Rig(checkpoint={"volume": {"size": "1Gi"}})
    wanted = rig.job.spec.claim
    assert wanted is not None
    await rig.apply(CreatePod(0, 1), CreatePod(1, 1), CreateClaim(wanted), CreateService())
    assert [w.kind for w in rig.kube.writes] == ["persistentvolumeclaims", "services", "pods", "pods"]


async def test_one_failure_does_not_stop_the_rest_and_says_what_was_not_done() -> None:
    rig = Rig()

    def fault(number: int, write: Write, do: Any) -> Any:
        if write.name == "mnist-0":
            raise Refused("exceeded quota", code=403)
        return do()

    rig.kube.fault = fault
    problems = await rig.apply(CreatePod(0, 1), CreatePod(1, 1))
    assert [p.sentence for p in problems] == ["cannot create worker 0 of incarnation 1: exceeded quota"]
    assert list(rig.kube.named(PODS)) == ["mnist-1"]


async def test_a_spec_that_cannot_become_a_pod_is_a_problem_and_no_crash() -> None:
    rig = Rig(env=[{"name": "RANK", "value": "1"}])
    problems = await rig.apply(CreatePod(0, 1))
    assert "RANK" in problems[0].sentence


async def test_an_assignment_goes_to_the_stream() -> None:
    rig = Rig()
    assignment = Assignment(job_uid="job-uid", incarnation=1)
    assert await rig.apply(Assign("uid-1", assignment)) == ()
    assert rig.told == [("uid-1", assignment)]


async def test_deleting_a_job_spares_its_successor_of_the_same_name() -> None:
    rig = Rig()
    rig.kube.put(JOBS, a_raw_job(uid="new"))
    assert await rig.apply(DeleteJob()) == ()
    assert "mnist" in rig.kube.named(JOBS)


async def test_deleting_a_job_that_is_gone_is_success() -> None:
    rig = Rig()
    rig.cache.job_seen(a_raw_job())
    assert await rig.apply(DeleteJob()) == ()
    assert rig.cache.job(KEY) is None
