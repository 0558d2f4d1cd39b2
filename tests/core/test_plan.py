"""The life of a job, told one pass at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Best, CheckpointProblem, Ending, Progress, RemoteCopy, Restore
from disttrain_operator.core.actions import Assign, CreateClaim, CreatePod, CreateService, DeleteJob, DeletePod
from disttrain_operator.core.conditions import Type, find
from disttrain_operator.core.model import Claim, ClaimSpec, CleanPodPolicy, Recovery, Rule, Status, Verdict
from support.worlds import (
    NOW,
    a_checkpoint,
    a_job,
    a_pod,
    a_report,
    ask,
    at_work,
    condition,
    crashed,
    dead,
    done,
    failed,
    idle,
    later,
    running,
    starting,
)  # fmt: skip


def kinds(answer):
    return [type(a).__name__ for a in answer.actions]


def test_a_new_job_first_writes_down_its_incarnation_and_makes_nothing():
    answer = ask(a_job())
    assert (answer.status.incarnation, answer.actions, answer.wake_at) == (1, (), NOW)
    assert condition(answer, Type.ADMITTED).reason == "Accepted"


def test_then_it_makes_service_claim_and_pods():
    job = a_job(status=starting(), claim=ClaimSpec(name="mnist-checkpoints", size="1Gi"))
    answer = ask(job, service_exists=False)
    assert answer.actions == (
        CreateService(),
        CreateClaim(job.spec.claim),
        CreatePod(0, 1),
        CreatePod(1, 1),
        CreatePod(2, 1),
    )


def test_agents_wait_until_everybody_is_connected():
    answer = ask(a_job(status=starting()), idle(0), idle(1), a_pod(2))
    assert [a.assignment.membership for a in answer.actions if isinstance(a, Assign)] == [None, None]
    assert "2 of 3" in answer.reason


def test_when_everybody_is_there_all_hear_of_the_same_group():
    answer = ask(a_job(status=starting()), idle(0), idle(1), idle(2))
    groups = {a.assignment.membership for a in answer.actions if isinstance(a, Assign)}
    assert len(groups) == 1 and len(answer.actions) == 3
    (group,) = groups
    assert (group.master_addr, group.workers, group.incarnation) == ("198.18.0.1", 3, 1)


def test_running_is_true_when_all_ranks_have_started():
    answer = ask(a_job(status=starting()), at_work(0), at_work(1), at_work(2))
    assert condition(answer, Type.RUNNING).status == "True" and answer.status.state == "Running"
    assert [e.reason for e in answer.events] == ["Running"]


def test_a_running_job_costs_nothing():
    first = ask(a_job(status=starting()), at_work(0), at_work(1), at_work(2))
    again = ask(a_job(status=first.status), at_work(0), at_work(1), at_work(2), now=later(60))
    assert again.status == first.status and again.actions == () and again.events == ()


def test_a_failed_process_bumps_the_incarnation_and_its_pod_stays():
    answer = ask(a_job(status=running()), at_work(0, step=7), crashed(1), at_work(2))
    assert (answer.status.incarnation, answer.status.attempts, answer.status.replacing) == (2, 1, ())
    assert answer.actions == ()
    assert "rank 1 on mnist-1: ValueError: bad" in condition(answer, Type.RESTARTING).message
    last = answer.status.last_recovery
    assert (last.failure_class, last.rank, last.pod, last.node, last.step) == (
        FailureClass.CODE,
        1,
        "mnist-1",
        "node-1",
        7,
    )


def test_after_the_bump_every_agent_is_told_to_join_the_next_incarnation():
    answer = ask(a_job(status=starting(2)), at_work(0, 1), crashed(1, 1), at_work(2, 1))
    assert [a.assignment.membership.incarnation for a in answer.actions] == [2, 2, 2]


def test_an_old_failure_is_not_charged_twice():
    answer = ask(a_job(status=starting(2, attempts=1)), crashed(0, 1), idle(1, 1), idle(2, 1))
    assert (answer.status.incarnation, answer.status.attempts) == (2, 1)


def test_a_dead_pod_is_charged_then_deleted_then_made_again():
    job = a_job(status=running())
    first = ask(job, at_work(0), dead(1), at_work(2))
    assert first.actions == () and first.status.replacing == ("uid-1",)
    second = ask(replace(job, status=first.status), at_work(0), dead(1), at_work(2))
    assert DeletePod("mnist-1", "uid-1", force=True) in second.actions and second.status.incarnation == 2
    third = ask(replace(job, status=second.status), at_work(0), at_work(2))
    assert CreatePod(1, 2) in third.actions and third.status.replacing == ()


def test_a_deleted_pod_is_replaced_without_a_charge():
    answer = ask(a_job(status=running()), at_work(0), at_work(2))
    assert (answer.status.incarnation, answer.status.attempts) == (2, 0)
    assert "pod mnist-1 was deleted" in condition(answer, Type.RESTARTING).message


def test_a_pod_that_shuts_down_may_finish_its_checkpoint_first():
    answer = ask(a_job(status=running()), at_work(0), at_work(1, deleting=True), at_work(2))
    assert answer.status.incarnation == 1
    assert not [a for a in answer.actions if isinstance(a, DeletePod)]


def test_the_victims_of_a_shutdown_do_not_count_while_the_pod_is_still_ending():
    victim = crashed(0, failure=failed("exit 143", FailureClass.SIGNAL, code=143))
    answer = ask(a_job(status=running()), victim, at_work(1, deleting=True), at_work(2))
    assert answer.status.incarnation == 1 and answer.wake_at is not None


@pytest.mark.parametrize("end", [{"deleting": True}, {"lost": "pod mnist-1 was evicted"}])
def test_a_pod_that_was_shut_down_is_the_cause_although_it_ended_by_that_very_sigterm(end: dict[str, Any]):
    victim = crashed(0, failure=failed("rank 1 was told to stop", FailureClass.NETWORK, code=143, ago=0.3))
    answer = ask(a_job(status=running()), victim, dead(1, code=143, **end), at_work(2))
    last = answer.status.last_recovery
    assert last.pod == "mnist-1" and last.failure_class in (FailureClass.POD, FailureClass.NODE)
    assert answer.status.attempts == 0, "nobody is charged for it"


def test_the_cause_is_blamed_not_its_victims():
    peer = failed("Connection closed by peer", FailureClass.NETWORK, ago=3.0)
    answer = ask(
        a_job(status=running()), crashed(0, failure=peer), crashed(1, failure=failed("CUDA error", rank=1)), at_work(2)
    )
    assert answer.status.last_recovery.cause == "CUDA error"


def test_with_victims_only_the_planner_waits_for_news_of_the_silent_pod():
    peer = failed("Connection closed by peer", FailureClass.NETWORK)
    silent = at_work(1, connected=False, silent=2.0)
    answer = ask(a_job(status=running()), crashed(0, failure=peer), silent, at_work(2))
    assert (
        answer.status.incarnation == 1 and answer.wake_at == later(1) and "waiting for news of mnist-1" in answer.reason
    )


def test_a_pod_that_stays_silent_is_lost_with_its_node_and_costs_nothing():
    peer = failed("Connection closed by peer", FailureClass.NETWORK)
    silent = at_work(1, connected=False, silent=11.0)
    job = a_job(status=running())
    answer = ask(job, crashed(0, failure=peer), silent, at_work(2))
    assert (answer.status.incarnation, answer.status.attempts, answer.status.replacing) == (2, 0, ("uid-1",))
    assert answer.status.last_recovery.failure_class is FailureClass.NODE
    after = ask(replace(job, status=answer.status), idle(0, 2), silent, idle(2, 2))
    assert DeletePod("mnist-1", "uid-1", force=True) in after.actions


def test_a_lost_stream_alone_is_no_failure():
    answer = ask(a_job(status=running()), at_work(0), at_work(1, connected=False, silent=600), at_work(2))
    assert answer.status.incarnation == 1 and answer.actions == ()


def test_a_silent_member_is_lost_when_all_others_wait_for_it() -> None:
    job, silent = a_job(status=running()), at_work(1, connected=False, silent=5.0)
    first = ask(job, at_work(0, waiting=True), silent, at_work(2, waiting=True))
    assert first.status.incarnation == 1 and first.wake_at == later(2)
    silent = at_work(1, connected=False, silent=7.0)
    then = ask(job, at_work(0, waiting=True), silent, at_work(2, waiting=True))
    assert (then.status.incarnation, then.status.attempts, then.status.replacing) == (2, 0, ("uid-1",))
    assert then.status.last_recovery.failure_class is FailureClass.NODE
    assert "no word from pod mnist-1 for 7 s" in then.status.last_recovery.cause


def test_a_node_is_lost_with_all_its_members_though_the_silence_of_some_is_younger() -> None:
    cut = [at_work(i, connected=False, silent=s, node="cut") for i, s in ((1, 7.0), (2, 5.2))]
    elsewhere = at_work(3, connected=False, silent=5.2, node="slow")
    answer = ask(a_job(workers=4, status=running()), at_work(0, waiting=True), *cut, elsewhere)
    assert (answer.status.incarnation, answer.status.replacing) == (2, ("uid-1", "uid-2"))


def test_of_scripts_nobody_knows_whether_they_wait_so_silence_must_last_longer() -> None:
    def after(seconds: float) -> int:
        others = (at_work(0, waiting=None), at_work(2, waiting=True))
        return ask(a_job(status=running()), *others, at_work(1, connected=False, silent=seconds)).status.incarnation

    assert (after(29.0), after(30.0)) == (1, 2)


def test_an_operator_that_hears_nobody_blames_nobody() -> None:
    pods = (at_work(i, connected=False, silent=600, waiting=True) for i in range(3))
    assert ask(a_job(status=running()), *pods).status.incarnation == 1


def test_who_has_not_begun_in_this_incarnation_or_has_ended_does_not_say_that_anybody_waits() -> None:
    silent = at_work(1, connected=False, silent=60)
    for other in (idle(2, 0), at_work(2, waiting=False)):
        assert ask(a_job(status=running()), at_work(0, waiting=True), silent, other).status.incarnation == 1
    assert ask(a_job(status=running()), at_work(0, waiting=True), silent, done(2)).status.incarnation == 2


def test_a_member_that_falls_silent_while_the_group_forms_is_lost_too() -> None:
    job = a_job(status=starting(2))
    first = ask(job, idle(0, 2), idle(1, 2, connected=False, silent=4.0), idle(2, 2))
    assert first.status.incarnation == 2 and first.wake_at == later(3)
    silent = idle(1, 2, connected=False, silent=7.0)
    then = ask(replace(job, status=first.status), idle(0, 2), silent, idle(2, 2), now=later(3))
    assert (then.status.incarnation, then.status.attempts, then.status.replacing) == (3, 0, ("uid-1",))
    assert then.status.last_recovery.failure_class is FailureClass.NODE


def test_an_out_of_memory_kill_is_said_as_such():
    answer = ask(a_job(status=running()), at_work(0), dead(1, 137, "OOMKilled"), at_work(2))
    assert answer.status.last_recovery.failure_class is FailureClass.OOM and "memory" in answer.reason


def test_the_budget_stops_a_script_that_always_fails_and_the_condition_carries_its_last_line():
    job = a_job(status=running(attempts=5, charges=(NOW,) * 5), max_failures=5)
    answer = ask(job, at_work(0), crashed(1, failure=failed("KeyError: 'lr'", rank=1)), at_work(2))
    last = condition(answer, Type.FAILED)
    assert last.reason == "BudgetExhausted" and "KeyError: 'lr'" in last.message
    assert answer.status.state == "Failed" and condition(answer, Type.SUCCEEDED).status == "False"


def test_an_entry_point_that_cannot_be_imported_is_never_tried_again():
    nope = failed("ModuleNotFoundError: No module named 'nope'", FailureClass.ENTRYPOINT, code=64)
    answer = ask(a_job(status=starting()), crashed(0, failure=nope), at_work(1), at_work(2))
    assert condition(answer, Type.FAILED).reason == "EntrypointError"


RULES = {
    "a listed exit code fails the job": (Rule(action=Verdict.FAIL, exit_codes=frozenset({3})), "Failed", 1),
    "an ignored exit code restarts without a charge": (
        Rule(action=Verdict.IGNORE, exit_codes=frozenset({3})),
        "Restarting",
        0,
    ),
    "a rule by class": (Rule(action=Verdict.FAIL, reason=FailureClass.CODE), "Failed", 1),
    "a rule for something else does not match": (Rule(action=Verdict.FAIL, reason=FailureClass.OOM), "Restarting", 1),
}


@pytest.mark.parametrize(("rule", "state", "attempts"), RULES.values(), ids=RULES.keys())
def test_rules_decide(rule, state, attempts):
    answer = ask(a_job(status=running(), rules=(rule,)), at_work(0), crashed(1, failure=failed(code=3)), at_work(2))
    assert answer.status.state == state
    if state != "Failed":
        assert answer.status.attempts == attempts


def test_back_off_holds_the_group_but_not_the_pods():
    status = starting(3, attempts=3, charges=(NOW,) * 3, restart_after=later(4))
    answer = ask(a_job(status=status), idle(0, 2), idle(1, 2))
    assert CreatePod(2, 3) in answer.actions and answer.wake_at == later(4)
    held = ask(a_job(status=status), idle(0, 2), idle(1, 2), idle(2))
    assert all(a.assignment.membership is None for a in held.actions)
    go = ask(a_job(status=status), idle(0, 2), idle(1, 2), idle(2), now=later(4))
    assert all(a.assignment.membership is not None for a in go.actions)


def test_success_needs_every_worker_of_the_present_incarnation():
    assert ask(a_job(status=running()), done(0), done(1), at_work(2)).status.state == "Running"
    answer = ask(a_job(status=running()), done(0), done(1), done(2))
    assert condition(answer, Type.SUCCEEDED).status == "True" and answer.status.completion_time == NOW


def test_who_ends_before_the_last_step_says_why() -> None:
    ending = Ending(reason="EarlyStop", message="accuracy was no better for 3 evaluations")
    status = replace(running(), progress=Progress(step=40, total_steps=40, ended=ending))
    ended = condition(ask(a_job(status=status), done(0), done(1), done(2)), Type.SUCCEEDED)
    assert (ended.status, ended.reason) == ("True", "EarlyStop")
    assert ended.message.endswith(": accuracy was no better for 3 evaluations")
    odd = replace(status, progress=Progress(step=40, ended=replace(ending, reason="no such word!")))
    answer = ask(a_job(status=odd), done(0), done(1), done(2))
    assert condition(answer, Type.SUCCEEDED).reason == "WorkersFinished", "an agent may say anything"


def test_what_one_report_does_not_know_stays_from_the_one_before() -> None:
    known = Progress(
        step=40, metrics={"accuracy": 0.9, "epsilon": 1.0}, best=Best(metric="accuracy", value=0.9, step=40)
    )
    status = replace(running(), progress=known)
    report = replace(a_report(), progress=Progress(step=41, metrics={"epsilon": 1.1}))
    seen = ask(a_job(status=status), a_pod(0, report), at_work(1), at_work(2)).status.progress
    assert seen is not None
    assert (dict(seen.metrics), seen.best) == ({"accuracy": 0.9, "epsilon": 1.1}, known.best)


def test_a_worker_that_finished_an_older_incarnation_is_made_again():
    answer = ask(a_job(status=starting(2)), done(0, 1), idle(1, 1), idle(2, 1))
    assert DeletePod("mnist-0", "uid-0", force=True) in answer.actions


def test_a_finished_job_stops_agents_first_and_deletes_what_still_runs_later():
    over = ask(a_job(status=running()), done(0), done(1), done(2)).status
    soon = ask(a_job(status=over), done(0), at_work(1), now=later(1))
    assert [a.assignment.stop for a in soon.actions] == ["the job has finished"]
    late = ask(a_job(status=over), done(0), at_work(1), now=later(60))
    assert late.actions == (DeletePod("mnist-1", "uid-1"),)


@pytest.mark.parametrize(("policy", "deleted"), [(CleanPodPolicy.ALL, 2), (CleanPodPolicy.NONE, 0)])
def test_pods_of_a_finished_job_go_by_policy(policy, deleted):
    over = ask(a_job(status=running()), done(0), done(1), done(2)).status
    answer = ask(a_job(status=over, clean_pod_policy=policy), done(0), done(1), now=later(60))
    assert len(answer.actions) == deleted


def test_time_to_live():
    over = ask(a_job(status=running()), done(0), done(1), done(2)).status
    job = a_job(status=over, ttl=timedelta(seconds=100))
    assert ask(job, done(0), now=later(50)).wake_at == later(100)
    assert ask(job, done(0), now=later(100)).actions == (DeleteJob(),)


def test_suspend_deletes_the_pods_and_resume_starts_a_new_incarnation_without_a_charge():
    job = a_job(status=running(), suspend=True)
    first = ask(job, at_work(0), at_work(1, deleting=True))
    assert first.actions == (DeletePod("mnist-0", "uid-0"),) and first.status.state == "Suspending"
    second = ask(replace(job, status=first.status))
    assert second.status.state == "Suspended" and second.status.start_time is None
    assert [(e.reason, e.warning) for e in second.events] == [("Suspended", False)]
    third = ask(a_job(status=second.status))
    assert (third.status.incarnation, third.status.attempts, third.status.recoveries) == (2, 0, 0)
    assert third.status.start_time == NOW and third.actions == ()


def test_a_suspension_says_what_could_not_be_saved_in_time():
    job = a_job(workers=1, status=running(), suspend=True)
    stopping = ask(job, a_pod(0, a_report(step=41, checkpoint=a_checkpoint(38)), deleting=True))
    late = ask(replace(job, status=stopping.status))
    assert "suspended at step 41, 3 steps lost: set spec.suspend" in condition(late, Type.SUSPENDED).message
    in_time = a_pod(0, a_report(step=41, checkpoint=a_checkpoint(41)), deleting=True)
    saved = ask(replace(job, status=ask(replace(job, status=stopping.status), in_time).status))
    assert "suspended at step 41, 0 steps lost" in condition(saved, Type.SUSPENDED).message


def test_a_job_that_is_born_suspended_makes_nothing_until_it_is_resumed():
    born = ask(a_job(suspend=True))
    assert born.status.state == "Suspended" and born.status.incarnation == 0 and born.actions == ()
    assert ask(a_job(status=born.status)).status.incarnation == 1


def test_active_deadline_fails_the_job_and_names_the_field():
    job = a_job(status=running(), active_deadline=timedelta(seconds=10))
    assert ask(job, at_work(0), at_work(1), at_work(2)).wake_at == later(10)
    over = condition(ask(job, at_work(0), at_work(1), at_work(2), now=later(10)), Type.FAILED)
    assert over.reason == "DeadlineExceeded" and "spec.activeDeadlineSeconds" in over.message


def test_startup_deadline_says_what_it_waited_for():
    job = a_job(workers=1, status=starting(), startup_deadline=timedelta(seconds=10))
    waiting = a_pod(0, waiting=("ImagePullBackOff", "no such image"))
    assert ask(job, waiting).status.state == "ImagePullBackOff"
    over = condition(ask(job, waiting, now=later(10)), Type.FAILED)
    assert over.reason == "StartupDeadlineExceeded" and "no such image" in over.message


CLAIMS = {
    "ClaimNotFound": None,
    "ClaimReadOnly": Claim(name="data", access_modes=("ReadOnlyMany",)),
    "ClaimTerminating": Claim(name="data", deleting=True),
}


@pytest.mark.parametrize(("reason", "claim"), CLAIMS.items(), ids=CLAIMS.keys())
def test_a_claim_that_cannot_be_used_is_said_before_a_pod_is_made(reason, claim):
    answer = ask(a_job(claim=ClaimSpec(name="data")), claim=claim)
    assert condition(answer, Type.ADMITTED).reason == reason and answer.status.state == reason
    assert answer.actions == () and answer.status.incarnation == 0 and answer.wake_at == later(10)


def test_the_job_starts_by_itself_when_the_claim_appears():
    waiting = ask(a_job(claim=ClaimSpec(name="data")), claim=None).status
    answer = ask(
        a_job(claim=ClaimSpec(name="data"), status=waiting), claim=Claim(name="data", access_modes=("ReadWriteMany",))
    )
    assert answer.status.incarnation == 1


def test_a_full_disk_is_a_condition_and_training_goes_on():
    full = CheckpointProblem(step=9, reason="DiskFull", message="No space left on device")
    claim = ClaimSpec(name="data")
    pods = [a_pod(0, a_report(step=9, checkpoint_problem=full)), at_work(1), at_work(2)]
    answer = ask(a_job(status=running(), claim=claim), *pods, claim=Claim(name="data"))
    seen = condition(answer, Type.CHECKPOINTED)
    assert (seen.status, seen.reason) == ("False", "DiskFull") and answer.status.state == "Running"


def test_a_store_that_is_away_is_a_condition_of_its_own_and_training_goes_on():
    away = RemoteCopy(step=9, url="s3://b/p", reason="RemoteUnreachable", message="check the network")
    there = RemoteCopy(step=12, url="s3://b/p", digest="sha256:" + "a" * 64)
    job = a_job(status=running(), claim=ClaimSpec(name="data"))
    first = ask(
        job,
        a_pod(0, a_report(step=9, checkpoint=a_checkpoint(9), remote_copy=away)),
        at_work(1),
        at_work(2),
        claim=Claim(name="data"),
    )
    assert condition(first, Type.REMOTE_COPIED).reason == "RemoteUnreachable"
    assert condition(first, Type.CHECKPOINTED).status == "True" and first.status.state == "Running"
    assert [e.warning for e in first.events if e.reason == "RemoteUnreachable"] == [True]
    job = replace(job, status=first.status)
    then = ask(job, a_pod(0, a_report(step=12, remote_copy=there)), at_work(1), at_work(2), claim=Claim(name="data"))
    seen = condition(then, Type.REMOTE_COPIED)
    assert (seen.status, seen.reason) == ("True", "Copied") and "step 12 is at s3://b/p" in seen.message
    quiet = ask(replace(job, status=running()), at_work(0), at_work(1), at_work(2))
    assert find(quiet.status.conditions, Type.REMOTE_COPIED) is None, "a job without a second tier says nothing of it"


def test_a_claim_too_small_is_said_once_a_checkpoint_shows_its_size():
    pods = [a_pod(0, a_report(step=9, checkpoint=a_checkpoint(5, size=400 << 20))), at_work(1), at_work(2)]
    claim = Claim(name="data", capacity_bytes=1 << 30)
    answer = ask(a_job(status=running(), claim=ClaimSpec(name="data")), *pods, claim=claim)
    seen = condition(answer, Type.CHECKPOINTED)
    assert seen.reason == "ClaimTooSmall" and "spec.checkpoint.keep" in seen.message
    assert answer.status.checkpoint.step == 5


def test_a_recovery_is_measured_from_the_failure_to_the_first_new_step():
    last = Recovery(incarnation=1, cause="x", failure_class=FailureClass.CODE, failed_at=NOW, step=20)
    status = running(2, last_recovery=last, recoveries=1)
    back = Restore(step=15, source="volume", digest="sha256:abcdef", skipped=("step 18: torn",))
    first = ask(
        a_job(status=status), a_pod(0, a_report(2, step=17, restore=back)), at_work(1, 2), at_work(2, 2), now=later(2)
    )
    assert (first.status.last_recovery.restored_step, first.status.last_recovery.lost_steps) == (15, 5)
    assert first.status.last_recovery.recover_seconds is None
    assert (
        condition(first, Type.RESTORE_VERIFIED).reason == "SkippedCorrupt"
        and "torn" in condition(first, Type.RESTORE_VERIFIED).message
    )
    then = ask(a_job(status=first.status), a_pod(0, a_report(2, step=21)), at_work(1, 2), at_work(2, 2), now=later(3))
    assert then.status.last_recovery.recover_seconds == 3.0


def test_words_of_an_older_incarnation_do_not_move_the_progress():
    answer = ask(a_job(status=running(2)), at_work(0, 1, step=99), at_work(1, 2), at_work(2, 2))
    assert answer.status.progress is None


def test_a_foreign_pod_of_our_name_is_left_alone_and_named():
    answer = ask(a_job(status=starting()), replace(a_pod(1), foreign=True))
    assert {a for a in answer.actions if isinstance(a, DeletePod)} == set() and CreatePod(1, 1) not in answer.actions
    assert condition(answer, Type.WORKERS_READY).reason == "NameConflict"


def test_unequal_workers_do_not_form_a_group():
    one = a_pod(0, a_report(0, AgentState.IDLE, processes=4))
    answer = ask(a_job(workers=2, status=starting()), one, idle(1))
    assert all(a.assignment.membership is None for a in answer.actions)
    assert condition(answer, Type.WORKERS_READY).reason == "UnequalWorkers"


@pytest.mark.parametrize(
    "job", [a_job(deleting=True), a_job(managed_by="kueue.x-k8s.io/multikueue")], ids=["deleting", "managed elsewhere"]
)
def test_what_is_not_ours_is_not_touched(job):
    answer = ask(job, crashed(0))
    assert (answer.status.incarnation, answer.actions, answer.events) == (0, (), ())


def test_a_spec_that_cannot_be_read_is_refused_with_its_sentence():
    answer = ask(a_job(invalid="spec.workers: 'many' is not a number"))
    assert condition(answer, Type.ADMITTED).message == "spec.workers: 'many' is not a number" and answer.actions == ()


def test_a_failure_is_one_event():
    answer = ask(a_job(status=running()), at_work(0), crashed(1), at_work(2))
    assert [(e.reason, e.warning) for e in answer.events if e.warning] == [("CodeError", True)]
    assert Status().conditions == ()


def test_accepted_is_said_as_true() -> None:
    assert condition(ask(a_job()), Type.ADMITTED).status == "True"


def test_a_failure_behind_new_steps_restarts_at_once_one_without_waits() -> None:
    before = Recovery(incarnation=1, cause="x", failure_class=FailureClass.CODE, failed_at=NOW, step=5)
    recovered = replace(before, recover_seconds=2.0)
    for last, wait in ((before, 2.0), (recovered, 0.0)):
        job = a_job(status=running(3, attempts=2, charges=(NOW,) * 2, recoveries=2, last_recovery=last))
        answer = ask(job, at_work(0, 3), crashed(1, 3), at_work(2, 3))
        assert answer.status.restart_after == (later(wait) if wait else None)


def test_a_pod_that_vanishes_again_and_again_does_not_make_a_hot_loop() -> None:
    before = Recovery(incarnation=1, cause="x", failure_class=FailureClass.POD, failed_at=NOW, step=5)
    answer = ask(a_job(status=running(2, recoveries=1, last_recovery=before)), at_work(0, 2), at_work(2, 2))
    assert answer.status.restart_after == later(5)


def test_a_job_born_suspended_is_admitted_when_it_is_resumed() -> None:
    born = ask(a_job(suspend=True, claim=ClaimSpec(name="data"))).status
    answer = ask(a_job(status=born, claim=ClaimSpec(name="data")), claim=None)
    assert answer.status.incarnation == 0 and answer.status.state == "ClaimNotFound"


def test_a_job_that_has_run_cannot_miss_its_startup_deadline_later() -> None:
    status = starting(2, recoveries=1)
    job = a_job(workers=1, status=status, startup_deadline=timedelta(seconds=10))
    assert ask(job, a_pod(0), now=later(100)).status.state != "Failed"


def test_a_traceback_is_kept_by_its_end() -> None:
    long = replace(failed(), traceback="x" * 9000 + "the end")
    last = ask(a_job(status=running()), at_work(0), crashed(1, failure=long), at_work(2)).status.last_recovery
    assert len(last.traceback) == 4000 and last.traceback.endswith("the end")


def test_an_agent_that_gave_up_waiting_leaves_its_last_words_in_the_pod() -> None:
    words = a_report(1, AgentState.FAILED, failure=failed("ValueError: told at the end", rank=1))
    answer = ask(a_job(status=running()), at_work(0), dead(1, 1, report=words), at_work(2))
    assert answer.status.incarnation == 2 and answer.status.last_recovery.cause == "ValueError: told at the end"


def test_such_words_of_an_incarnation_that_has_been_charged_only_free_the_name() -> None:
    words = a_report(1, AgentState.FAILED, failure=failed(rank=1))
    answer = ask(a_job(status=starting(2, attempts=1)), idle(0, 1), dead(1, 1, report=words), idle(2, 1))
    assert (answer.status.incarnation, answer.status.attempts) == (2, 1)
    assert DeletePod("mnist-1", "uid-1", force=True) in answer.actions


CODES = {
    64: FailureClass.ENTRYPOINT,
    74: FailureClass.STORAGE,
    128: FailureClass.CODE,
    137: FailureClass.SIGNAL,
    3: FailureClass.CODE,
}


@pytest.mark.parametrize(("code", "kind"), CODES.items())
def test_without_last_words_the_exit_code_tells_the_class(code: int, kind: FailureClass) -> None:
    answer = ask(a_job(status=running()), at_work(0), dead(1, code), at_work(2))
    assert answer.status.last_recovery.failure_class is kind


def test_a_container_that_cannot_be_started_is_the_images_fault() -> None:
    answer = ask(a_job(status=starting()), idle(0), dead(1, 128, "StartError"), idle(2))
    assert answer.status.last_recovery.failure_class is FailureClass.IMAGE


def test_a_finished_worker_whose_agent_still_says_goodbye_is_counted_once() -> None:
    bye = a_pod(0, a_report(1, AgentState.FINISHED))
    counts = ask(a_job(workers=2, status=running()), bye, at_work(1)).status.workers
    assert (counts.ready, counts.succeeded) == (1, 1)


def test_a_claim_that_is_being_made_is_shown_but_no_event() -> None:
    unbound = a_pod(
        0, waiting=("Unschedulable", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
    )
    answer = ask(a_job(workers=1, status=starting(), claim=ClaimSpec(name="data")), unbound, claim=Claim(name="data"))
    assert answer.status.state == "WaitingForVolume" and "WaitingForVolume" not in [e.reason for e in answer.events]


def test_a_victim_that_is_heard_first_does_not_take_the_blame() -> None:
    peer = failed("Connection closed by peer", FailureClass.NETWORK, rank=0, ago=0.01)
    job = a_job(workers=2, status=running())
    first = ask(job, crashed(0, failure=peer), at_work(1))
    assert first.status == replace(job.status, state="Running"), "nothing is written for a moment"
    assert first.wake_at == later(0.09)
    assert "waiting for news of mnist-1" in first.reason
    second = ask(job, crashed(0, failure=replace(peer, seconds_ago=0.1)), at_work(1))
    assert second.status.incarnation == 1 and second.wake_at == later(1) and "news of mnist-1" in second.reason
    killed = failed("killed by SIGKILL", FailureClass.SIGNAL, code=137, rank=1)
    then = ask(
        replace(job, status=first.status),
        crashed(0, failure=replace(peer, seconds_ago=0.1)),
        crashed(1, failure=killed),
    )
    assert then.status.last_recovery.failure_class is FailureClass.SIGNAL and then.status.last_recovery.rank == 1


def test_a_victim_without_a_culprit_is_believed_after_a_second() -> None:
    peer = failed("Connection closed by peer", FailureClass.NETWORK, rank=0, ago=1.0)
    answer = ask(a_job(workers=2, status=running()), crashed(0, failure=peer), at_work(1))
    assert answer.status.incarnation == 2 and answer.status.last_recovery.failure_class is FailureClass.NETWORK
