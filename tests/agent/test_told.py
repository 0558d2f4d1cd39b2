"""The report is the newest of everything that is still true."""

from __future__ import annotations

from dataclasses import replace

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Checkpoint, CheckpointProblem, Failure, Progress, Restore
from disttrain_runtime.agent.decide import Agent
from disttrain_runtime.agent.told import Told, present

SAVED = Checkpoint(step=5, digest="d", path="p", incarnation=1, time="t")
PROBLEM = CheckpointProblem(step=6, reason="DiskFull", message="no space")
FAILURE = Failure(rank=0, local_rank=0, exit_code=1, failure_class=FailureClass.CODE, message="no")


def test_the_newest_of_each_kind_is_kept() -> None:
    told = Told().hear(0, Progress(step=1)).hear(0, Progress(step=2)).hear(0, Restore(step=1, source="volume"))
    assert told.progress == Progress(step=2) and told.step == 2 and told.restore and told.restore.step == 1


def test_a_commit_ends_the_problem_before_it() -> None:
    told = Told().hear(0, SAVED).hear(0, PROBLEM)
    assert told.checkpoint == SAVED and told.checkpoint_problem == PROBLEM
    assert told.hear(0, replace(SAVED, step=7)).checkpoint_problem is None


def test_of_what_a_rank_says_about_its_end_the_first_counts() -> None:
    told = Told().hear(1, FAILURE).hear(1, replace(FAILURE, message="also"))
    assert told.failures == {1: FAILURE}


def test_a_ranks_last_words_go_with_its_process() -> None:
    told = Told().hear(0, FAILURE).hear(1, FAILURE).bury(0)
    assert told.failures == {1: FAILURE} and told.bury(0) == told


def test_a_new_incarnation_inherits_only_the_checkpoint() -> None:
    told = Told().hear(0, Progress(step=2)).hear(0, SAVED).hear(0, PROBLEM).hear(0, FAILURE)
    assert told.next_incarnation() == Told(checkpoint=SAVED)


def test_a_failure_says_how_long_ago_it_was() -> None:
    agent = Agent(state=AgentState.FAILED, incarnation=2, failure=FAILURE, failed_at=10.0)
    report = present(agent, Told(progress=Progress(step=3)), processes=2, now=12.5)
    assert report.failure and report.failure.seconds_ago == 2.5
    assert (report.incarnation, report.processes, report.progress) == (2, 2, Progress(step=3))


def test_a_failure_that_is_kept_back_is_not_in_the_report() -> None:
    agent = Agent(state=AgentState.FAILED, incarnation=2, failure=FAILURE, failed_at=10.0, tell_at=11.0)
    report = present(agent, Told(), processes=2, now=10.5, waiting=True)
    assert (report.state, report.failure, report.waiting) == (AgentState.RUNNING, None, True)
