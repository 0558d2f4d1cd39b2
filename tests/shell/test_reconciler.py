from __future__ import annotations

import pytest

from disttrain_contract import labels
from disttrain_contract.drill import Announcement, Fault
from disttrain_contract.failures import FailureClass
from disttrain_operator.core.conditions import Type, find, is_true
from disttrain_operator.shell.errors import ClusterError, Conflict, Refused
from disttrain_operator.shell.kinds import CLAIMS, JOBS, PODS, SERVICES
from support.fake_kube import Crash, Write, reply_lost
from support.operator_world import KEY, STEPS, World, pod_vanishes, process_fails
from support.raw_objects import a_raw_job


async def finished(world: World) -> World:
    await world.until(lambda w: w.finished)
    return world


async def test_a_job_runs_to_its_end() -> None:
    world = await finished(World())
    assert is_true(world.status.conditions, Type.SUCCEEDED)
    assert world.status.incarnation == 1 and world.status.progress is not None
    assert world.status.progress.step == STEPS
    assert [s for _, s in world.training.history] == list(range(1, STEPS + 1)), "every step once"


async def test_it_makes_each_child_once() -> None:
    world = await finished(World())
    made = sorted(w.name for w in world.kube.writes if w.verb == "create" and w.kind != "events")
    assert made == ["mnist", "mnist-0", "mnist-1", "mnist-2", "mnist-checkpoints"]


async def test_a_standby_takes_the_place_of_a_lost_pod_and_another_one_is_made_behind_it() -> None:
    world = World(standby=1, faults={5: pod_vanishes(1)})
    await world.until(lambda w: w.training.step >= STEPS - 1)
    assert world.status.seats == (0, 3, 2) and world.status.incarnation == 2 and world.status.attempts == 0
    assert world.by_index(3).rank == 1 and world.by_index(1).rank is None
    assert (await finished(world)).status.state == "Succeeded"
    await world.until(lambda w: set(w.kube.named(PODS)) == {"mnist-0", "mnist-2", "mnist-3"})


async def test_an_elastic_job_goes_on_smaller_and_grows_again() -> None:
    world = World(elastic={"minWorkers": 2, "maxWorkers": 3}, faults={5: pod_vanishes(1)}, steps=60)
    await world.until(lambda w: w.status.seats == (0, 2) and w.training.by == 2)
    assert world.status.workers.desired == 3
    await world.until(lambda w: w.training.by == 3)
    assert world.status.seats == (0, 2, 1) and world.by_index(1).rank == 2
    assert (await finished(world)).status.state == "Succeeded"
    assert (world.status.incarnation, world.status.recoveries, world.status.attempts) == (3, 1, 0)


async def test_a_job_at_rest_with_standbys_costs_no_write() -> None:
    world = World(standby=2)
    await world.until(lambda w: w.training.step >= 3 and w.status.workers.standby == 2)
    world.live = lambda: None  # type: ignore[method-assign]
    for _ in range(8):
        await world.round()
    before = len(world.kube.writes)
    for _ in range(100):
        await world.round()
    assert world.kube.writes[before:] == []


async def test_a_job_at_rest_costs_no_write() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 3)
    world.live = lambda: None  # type: ignore[method-assign]  # the world stands still
    for _ in range(8):  # the last progress is written when its five seconds are over
        await world.round()
    before = len(world.kube.writes)
    for _ in range(100):
        await world.round()
    assert world.kube.writes[before:] == []


async def test_a_restarted_operator_writes_nothing_about_a_job_that_goes_on() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 3)
    for _ in range(2):
        await world.round()
    world._train = lambda: None  # type: ignore[method-assign]  # alive, between two steps
    for _ in range(8):
        await world.round()
    before = len(world.kube.writes)
    world.start_operator()
    for _ in range(30):
        await world.round()
    assert world.kube.writes[before:] == []


async def test_progress_is_written_every_five_seconds_at_most() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 1)
    await world.round()
    before = len(world.kube.writes)
    for _ in range(8):
        await world.round()
    updates = [w for w in world.kube.writes[before:] if w.verb == "update"]
    assert 1 <= len(updates) <= 2


async def test_progress_that_was_held_back_makes_its_job_due() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 3)
    world.start_operator()
    world.live()
    for _ in range(2):  # the first write is free, the next one waits
        world.training.step += 1
        due = await world.reconciler.reconcile(KEY)
        world.kube.deliver(world.cache)
    assert due is not None and 0 < due <= 5


async def test_a_failed_process_is_restarted_in_its_pod() -> None:
    world = await finished(World(faults={6: process_fails(1)}))
    assert is_true(world.status.conditions, Type.SUCCEEDED)
    assert (world.status.incarnation, world.status.attempts) == (2, 1)
    assert sum(w.verb == "create" and w.kind == "pods" for w in world.kube.writes) == 3, "no pod was made anew"
    assert world.training.history[6] == (2, 5), "it went on after the checkpoint of step 4"


async def test_a_vanished_pod_is_made_again_and_not_charged() -> None:
    world = await finished(World(faults={6: pod_vanishes(2)}))
    assert (world.status.incarnation, world.status.attempts) == (2, 0)
    assert sum(w.name == "mnist-2" and w.verb == "create" for w in world.kube.writes) == 2
    assert world.status.last_recovery is not None and world.status.last_recovery.lost_steps == 2


async def test_an_event_is_written_after_the_status_and_once() -> None:
    world = await finished(World(faults={6: process_fails(1)}))
    failures = [e for e in world.kube.events if e["reason"] == "CodeError"]
    assert len(failures) == 1 and failures[0]["type"] == "Warning"
    first = next(i for i, w in enumerate(world.kube.writes) if w.kind == "events")
    assert world.kube.writes[first - 1] == Write("update", "disttrainjobs", "mnist")


async def test_after_a_failure_agents_hear_first_and_people_second() -> None:
    world = World(faults={6: process_fails(1)})
    heard: list[set[int]] = []

    def fault(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        if write.kind == "events" and world.status.incarnation == 2 and not heard:
            heard.append({a.told.incarnation for a in world.agents.values() if a.told})
        return do()

    world.kube.fault = fault
    await finished(world)
    assert heard == [{2}], "the group had its orders before anybody wrote an event"


async def test_no_agent_waits_for_a_write_about_something_else() -> None:
    world = World(faults={6: process_fails(1)})
    await world.until(lambda w: w.training.step == 6)

    def fault(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        if write.verb == "update" and world.status.incarnation == 2:
            raise ClusterError("the API server is in trouble", code=500)
        return do()

    world.kube.fault = fault
    await world.until(lambda w: w.training.by == 2)
    assert world.status.incarnation == 2, "told only what is written down"


async def test_nobody_is_told_what_is_not_written_down() -> None:
    world = World(faults={6: process_fails(1)})
    await world.until(lambda w: w.training.step == 6)

    def fault(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        if write.verb == "update":
            raise ClusterError("the API server is in trouble", code=500)
        return do()

    world.kube.fault = fault
    for _ in range(20):
        await world.round()
    assert {a.told.incarnation for a in world.agents.values() if a.told} == {1}


async def test_a_job_of_another_controller_is_left_alone() -> None:
    world = World(managedBy="kueue.x-k8s.io/multikueue")
    for _ in range(5):
        await world.round()
    assert world.kube.writes == []


async def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 2)
    world.kube.change(JOBS, "team", "mnist", lambda j: j["metadata"].update(deletionTimestamp="2030-01-01T00:00:00Z"))
    before = len(world.kube.writes)
    world.vanish(1)
    for _ in range(5):
        await world.round()
    assert world.kube.writes[before:] == []


async def test_nothing_is_remembered_of_a_job_that_is_gone() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 2)
    world.kube.remove(JOBS, "team", "mnist")
    await world.round()
    assert not world.reconciler._memory and world.reconciler.lookups.recheck(KEY) is None


async def test_two_jobs_of_one_name_in_two_namespaces_have_nothing_to_do_with_each_other() -> None:
    world = World()
    other = a_raw_job(uid="other-uid", workers=1)
    other["metadata"]["namespace"] = "elsewhere"
    world.kube.put(JOBS, other)
    world.kube.deliver(world.cache)
    for _ in range(3):
        await world.reconciler.reconcile(("elsewhere", "mnist"))
    assert {(ns, n) for (kind, ns, n) in world.kube.objects if kind == "pods"} == {("elsewhere", "mnist-0")}
    await finished(world)


async def test_somebody_elses_write_in_between_drops_the_pass() -> None:
    world = World()
    hostile = 0

    def fault(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        nonlocal hostile
        if write.verb == "update" and hostile < 5:
            hostile += 1
            world.kube.change(JOBS, "team", "mnist", lambda j: j["metadata"].setdefault("annotations", {}).update(n=str(hostile)))  # fmt: skip
            raise Conflict("modified", code=409)
        return do()

    world.kube.fault = fault
    await finished(world)
    assert hostile == 5 and world.status.incarnation == 1
    assert world.kube.named(JOBS)["mnist"]["metadata"]["annotations"] == {"n": "5"}


async def test_an_operator_that_is_behind_cannot_write_over_a_newer_status() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 3)
    world.deaf_rounds = 3
    world.kube.change(JOBS, "team", "mnist", lambda j: j["status"].update(incarnation=7))
    world.vanish(1)  # which this operator answers with incarnation 2, if it can
    world.cache.pod_gone(next(uid for uid, a in world.agents.items() if a.index == 1))
    await world.round()
    assert world.status.incarnation >= 7


async def test_a_conflict_is_mended_without_the_watch() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 3)
    world.deaf_rounds = 100
    world.kube.change(JOBS, "team", "mnist", lambda j: j["metadata"].update(annotations={"a": "b"}))
    world.fail(world.by_index(1), "ValueError: bad batch")
    await world.round()
    assert world.status.incarnation == 2


async def test_a_strangers_pod_of_a_workers_name_is_said_and_not_touched() -> None:
    world = World()
    stranger = {"kind": "Pod", "metadata": {"name": "mnist-1", "namespace": "team"}, "status": {"phase": "Stranger"}}
    world.kube.put(PODS, stranger)
    for _ in range(6):
        await world.round()
    ready = find(world.status.conditions, Type.WORKERS_READY)
    assert ready is not None and ready.reason == "NameConflict" and "mnist-1" in ready.message
    assert world.kube.named(PODS)["mnist-1"]["status"] == {"phase": "Stranger"}
    world.kube.remove(PODS, "team", "mnist-1")
    await finished(world)


async def test_a_strangers_service_of_our_name_is_said_and_training_goes_on() -> None:
    world = World()
    world.kube.put(SERVICES, {"kind": "Service", "metadata": {"name": "mnist", "namespace": "team"}})
    await finished(world)
    notes = [e["note"] for e in world.kube.events if e["reason"] == "NameConflict"]
    assert len(notes) == 1 and "Service mnist" in notes[0]


async def test_a_claim_of_the_jobs_earlier_life_is_used_again() -> None:
    world = World()
    meta = {"name": "mnist-checkpoints", "namespace": "team", "labels": {labels.JOB: "mnist"}}
    spec = {"resources": {"requests": {"storage": "1Gi"}}}
    mine = {"kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
    world.kube.put(CLAIMS, mine)
    await finished(world)
    assert not [e for e in world.kube.events if e["reason"] == "NameConflict"]


async def test_a_refused_pod_does_not_stop_the_others_and_a_condition_says_why() -> None:
    world = World()

    def fault(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        if write.name == "mnist-1" and len(world.kube.writes) < 60:
            raise Refused("exceeded quota", code=403)
        return do()

    world.kube.fault = fault
    for _ in range(12):
        await world.round()
    assert set(world.kube.named(PODS)) == {"mnist-0", "mnist-2"}
    ready = find(world.status.conditions, Type.WORKERS_READY)
    assert ready is not None and ready.reason == "PodRefused" and world.status.state == "PodRefused"
    assert ready.message == "cannot create worker 1 of incarnation 1: exceeded quota"
    assert [e["note"] for e in world.kube.events if e["type"] == "Warning"] == [ready.message]
    await finished(world)
    assert world.status.incarnation == 1


async def test_a_refused_claim_is_said_once() -> None:
    world = World()

    def fault(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        if write.kind == "persistentvolumeclaims":
            raise Refused("exceeded quota", code=403)
        return do()

    world.kube.fault = fault
    for _ in range(12):
        await world.round()
    refusals = [e for e in world.kube.events if e["reason"] == "ActionRefused"]
    assert len(refusals) == 1 and "PersistentVolumeClaim mnist-checkpoints" in refusals[0]["note"]


async def test_who_does_not_lead_writes_nothing() -> None:
    world = World()
    world.leading = False
    for _ in range(5):
        await world.round()
    assert world.kube.writes == []


async def test_a_lease_lost_behind_the_status_write_stops_the_actions() -> None:
    world = World()

    def fault(number: int, write: Write, do):  # type: ignore[no-untyped-def]
        updates = sum(w.verb == "update" for w in world.kube.writes)
        world.leading = not (write.verb == "update" and updates == 2)  # the one that comes with the first pods
        return do()

    world.kube.fault = fault
    await world.round()
    assert [w.verb for w in world.kube.writes if w.kind != "events"] == ["update", "update"]


async def test_a_node_that_dies_with_the_operator_on_it_is_not_waited_for_for_ever() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 5)
    lost = world.by_index(0)
    lost.cut_off = True
    world.start_operator()
    await world.until(lambda w: w.status.incarnation == 2, rounds=60)
    assert world.status.last_recovery is not None and world.status.last_recovery.pod == "mnist-0"
    await finished(world)


async def test_a_status_write_whose_reply_was_lost_is_found_by_the_next_pass() -> None:
    world = World()
    world.kube.fault = lambda number, write, do: reply_lost(number, write, do) if number == 0 else do()
    await finished(world)
    assert world.status.incarnation == 1


async def test_metrics_count_recoveries_and_ends() -> None:
    world = await finished(World(faults={6: process_fails(1)}))
    text = world.metrics.text().decode()
    assert 'disttrain_job_recoveries_total{reason="CodeError"} 1.0' in text
    assert 'disttrain_jobs_finished_total{result="Succeeded"} 1.0' in text
    assert "disttrain_job_lost_steps_total 2.0" in text
    assert "mnist" not in text, "no job's name in a metric"


async def test_a_crash_is_a_crash() -> None:
    """The rig itself: a fault must really be felt."""
    world = World()
    world.kube.fault = lambda number, write, do: do() if number else (_ for _ in ()).throw(Crash())
    await finished(world)
    assert world.crashes == 1


@pytest.mark.parametrize("ttl", [0, 30])
async def test_a_finished_job_is_deleted_after_its_time_and_its_claim_stays(ttl: int) -> None:
    world = World(ttlSecondsAfterFinished=ttl)
    await world.until(lambda w: not w.kube.named(JOBS), rounds=200)
    assert not world.kube.named(PODS) and "mnist-checkpoints" in world.kube.named(CLAIMS)


async def test_a_node_that_another_job_has_lost_is_avoided_by_the_pods_that_are_made() -> None:
    world = World(faults={5: pod_vanishes(1)})
    await world.until(lambda w: w.training.step >= 3)
    lost = {"recovery": {"nodeFailures": [{"node": "bad", "class": "Node", "at": "2030-01-01T00:00:00Z"}]}}
    world.kube.put(JOBS, a_raw_job("other", uid="other-uid", status=lost, managedBy="somebody.else/too"))
    uids = {p["metadata"]["name"]: p["metadata"]["uid"] for p in world.kube.named(PODS).values()}
    await finished(world)
    made = [p for name, p in world.kube.named(PODS).items() if p["metadata"]["uid"] != uids[name]]
    assert [p["metadata"]["name"] for p in made] == ["mnist-1"]
    (term,) = made[0]["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["preference"]["matchFields"][0]["values"] == ["bad"]
    assert all("affinity" not in p["spec"] for p in world.kube.named(PODS).values() if p is not made[0])


async def test_a_drill_that_was_announced_a_moment_ago_is_not_taken_for_a_misfortune() -> None:
    world = World()
    await world.until(lambda w: w.training.step >= 3)
    said = Announcement(Fault.KILL_RANK, 1, "mnist-1").encode()
    world.deaf_rounds = 1000  # the watch does not bring the annotation: only the conflict tells
    world.kube.change(JOBS, "team", "mnist", lambda job: job["metadata"].update(annotations={labels.DRILL: said}))
    world.fail(world.by_index(1), "killed by SIGKILL", FailureClass.SIGNAL)
    await world.until(lambda w: w.status.recoveries == 1)
    last = world.status.last_recovery
    assert last is not None and (last.drill, last.pod) == ("kill-rank", "mnist-1")
    assert world.status.node_failures == ()
