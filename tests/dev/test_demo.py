"""The demo says whether what it shows is true: only a trained job that came back from a death is a good one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from dev.demo.report import report
from dev.demo.story import Outcome, Story
from tests.sdk.conftest import condition, job

from disttrain.sdk import Client, Job, JobGone, JobSeen

RECOVERY = {"count": 1, "last": {"restoredStep": 180, "source": "survivor", "lostSteps": 0, "recoverSeconds": 1.5}}


def seen(step: int, *conditions: dict[str, Any], state: str = "Running", accuracy: float = 0.98, **status: Any) -> Job:
    progress = {"step": step, "totalSteps": 450, "metrics": {"accuracy": accuracy}}
    return Job(
        job("digits") | {"status": {"state": state, "progress": progress, "conditions": list(conditions), **status}}
    )


def ended(**status: Any) -> Job:
    return seen(450, condition("Succeeded", "True"), state="Succeeded", **({"recovery": RECOVERY} | status))


def told(found: Job | None, killed: str | None = "digits-2") -> Outcome:
    return Outcome(job=found, killed=killed, killed_at_step=181, resumed_seconds=1.7, seconds=40.0)


def test_a_trained_job_that_came_back_is_good_and_its_figures_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(told(ended()), "demo") is True
    said = capsys.readouterr().out
    for figure in ("0.9800", "450", "digits-2 at step 181", "step 180 (survivor)", "0 (run again)", "1.5 s (operator)"):
        assert figure in said
    assert "disttrain describe digits -n demo" in said
    assert "proves nothing" not in said


@pytest.mark.parametrize("accuracy", [0.94, 0.0])
def test_a_model_that_learned_too_little_is_no_success(accuracy: float) -> None:
    assert report(told(ended(progress={"step": 450, "metrics": {"accuracy": accuracy}})), "demo") is False


def test_a_job_that_was_never_evaluated_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(told(ended(progress={"step": 450})), "demo") is False
    assert "unknown" in capsys.readouterr().out


def test_without_a_death_nothing_is_proven(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(told(ended(), killed=None), "demo") is False
    assert "before a worker could be killed: the demo proves nothing" in capsys.readouterr().out


@pytest.mark.parametrize("recovery", [None, {"count": 0}, {"count": 1, "last": {"class": "PodLost"}}])
def test_without_a_recovery_on_record_nothing_is_proven(
    recovery: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(told(ended(recovery=recovery)), "demo") is False
    assert "No recovery" in capsys.readouterr().out


def test_a_failed_job_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    failed = seen(20, condition("Failed", "True", "BudgetExhausted", "KeyError: 'lr'"), state="Failed")
    assert report(told(failed), "demo") is False
    assert "The job did not succeed: KeyError: 'lr'" in capsys.readouterr().out
    assert report(told(None), "demo") is False
    assert "it is gone" in capsys.readouterr().out


class Told:
    """A client whose watch shows these and then stays open, as a watch does."""

    def __init__(self, *jobs: Job | None) -> None:
        self._jobs = jobs

    def watch(self, name: str) -> Iterator[JobSeen | JobGone]:
        for found in self._jobs:
            yield JobSeen(found) if found is not None else JobGone(Job(job(name)))
        raise AssertionError("the story waits for more")


def story(*jobs: Job | None) -> tuple[Outcome, list[str]]:
    """What came of it, and who was killed."""
    killed: list[str] = []
    return Story(cast(Client, Told(*jobs)), "digits", killed.append).run(), killed


SAVED = {"checkpoint": {"lastCommitted": {"step": 150, "digest": "sha256:0"}}}


def test_the_last_worker_dies_once_in_the_middle_after_a_checkpoint() -> None:
    unsaved, early = seen(200), seen(20, **SAVED)
    outcome, killed = story(
        unsaved, early, seen(200, **SAVED), seen(210, **SAVED), seen(220, recovery=RECOVERY), ended()
    )
    assert killed == ["digits-2"]
    assert (outcome.killed, outcome.killed_at_step) == ("digits-2", 200)
    assert outcome.resumed_seconds is not None
    assert outcome.job is not None and outcome.job.succeeded


def test_nobody_dies_while_the_group_restarts() -> None:
    assert story(seen(200, state="Restarting", **SAVED), ended())[1] == []


def test_a_job_that_failed_ends_the_story() -> None:
    outcome, _ = story(seen(0, condition("Failed", "True", "EntrypointError", "no module digits"), state="Failed"))
    assert outcome.job is not None and outcome.job.failed


def test_a_job_that_somebody_deleted_ends_the_story() -> None:
    assert story(seen(20), None)[0].job is None


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"])
def test_an_image_that_is_not_there_ends_the_story_at_once(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    waits = seen(0, condition("WorkersReady", "False", reason, "trainer:dev was not found"), state=reason)
    outcome, _ = story(waits)
    assert report(outcome, "demo") is False
    assert "trainer:dev was not found; `make image-load`" in " ".join(capsys.readouterr().out.split())


def test_a_claim_that_is_being_made_does_not() -> None:
    waits = seen(0, condition("WorkersReady", "False", "Unschedulable", "unbound"), state="Unschedulable")
    assert story(waits, ended())[0].hopeless is None
