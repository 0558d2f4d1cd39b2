"""`disttrain describe`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.sdk.conftest import condition, event, job, pod
from tests.sdk.fake_api import JOBS, FakeApi
from tests.sdk.refusals import status_body

from disttrain.cli import advice
from disttrain.sdk import Job

LAST = {
    "incarnation": 1, "cause": "ZeroDivisionError: division by zero", "class": "CodeError", "rank": 1, "pod": "mnist-1", "node": "node-1",
    "exitCode": 1, "traceback": "Traceback (most recent call last):\n  File \"train.py\", line 3\nZeroDivisionError: division by zero\n",
    "failedAt": "2030-01-01T00:00:00Z", "step": 14, "restoredStep": 10, "source": "volume", "recoverSeconds": 2.34, "lostSteps": 4,
}  # fmt: skip
AGAINST = [{"node": "node-1", "class": kind, "at": "2030-01-01T00:00:00Z"} for kind in ("Signal", "Hang")]


@pytest.fixture
def recovered(api: FakeApi) -> FakeApi:
    raw = api.put(JOBS, job(checkpoint={"volume": {"size": "1Gi"}}))
    api.put(
        "persistentvolumeclaims",
        {"metadata": {"name": "mnist-checkpoints"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}},
    )
    for index in range(3):
        api.put("pods", pod("mnist", index, phase="Running" if index else "ImagePullBackOff"))
    api.put("events", event(raw, "CodeError", "rank 1 on mnist-1: ZeroDivisionError", kind="Warning"))
    api.status(
        "mnist", state="Running", incarnation=2, attempts=1, workers={"summary": "3/3", "active": 3},
        progress={"step": 20, "totalSteps": 30, "loss": 0.25}, recovery={"count": 1, "last": LAST, "nodeFailures": AGAINST},
        checkpoint={"lastCommitted": {"step": 20, "digest": "sha256:0123456789abcdef", "path": "mnist/checkpoints/step-00000020"}},
        conditions=[condition("Running", "True", "Running", "incarnation 2 runs on 3 workers")],
    )  # fmt: skip
    return api


def test_it_tells_all_there_is(recovered: FakeApi, cli: Cli) -> None:
    done = cli("describe", "mnist")
    assert done.code == 0
    for sentence in [
        "mnist  Running",
        "python train.py",
        "3/3 connected, 3 training; 1 process each",
        "step 20/30  loss 0.25",
        "step 20, mnist/checkpoints/step-00000020 sha256:0123456789ab",
        "claim mnist-checkpoints, 1Gi Bound; stays when the job is deleted",
        "1 of 5 failures charged",
        "CodeError: rank 1 in mnist-1 on node-1, exit code 1",
        "held against node-1 (2 failures: Hang, Signal): disttrain nodes",
        "recovered in 2.3 s from step 10 (volume), 4 steps lost",
        '│   File "train.py", line 3',
        "incarnation 2 runs on 3 workers",
        "ImagePullBackOff",
        "DistTrainJob/mnist",
        "watch it: disttrain follow mnist -n ml",
    ]:
        assert sentence in done.out, f"{sentence!r} is missing in\n{done.out}"


def test_what_a_pod_says_cannot_move_the_cursor(api: FakeApi, cli: Cli) -> None:
    api.put(JOBS, job(image="trainer\x1b[31m"))
    last = LAST | {"traceback": "Traceback\n\x1b[2J\x1b[1;1HAll is well\n"}
    api.status(
        "mnist",
        recovery={"count": 1, "last": last},
        conditions=[condition("Failed", "True", "CodeError", "\x1b]0;x\x07")],
    )
    said = cli("describe", "mnist").out
    assert "\x1b" not in said and "\x07" not in said
    for shown in ("trainer^[[31m", "│ ^[[2J^[[1;1HAll is well", "^[]0;x^G"):
        assert shown in said


def test_it_says_who_stands_by_and_who_has_taken_whose_place(api: FakeApi, cli: Cli) -> None:
    api.put(JOBS, job(standby=1))
    for index in range(4):
        api.put("pods", pod("mnist", index, phase="Running"))
    api.status("mnist", state="Running", seats=[0, 3, 2], workers={"summary": "3/3", "active": 3, "standby": 1})
    said = " ".join(cli("describe", "mnist").out.split())
    assert "1 of 1 standbys ready" in said
    assert "1 mnist-1 stands by" in said and "3 mnist-3 1 Running" in said


def test_a_failure_that_was_a_fire_drill_is_called_one(recovered: FakeApi, cli: Cli) -> None:
    recovered.status("mnist", recovery={"count": 1, "last": LAST | {"drill": "kill-rank"}})
    assert "Last failure: fire drill kill-rank\n" in cli("describe", "mnist").out


def test_what_one_may_not_see_is_left_out(recovered: FakeApi, cli: Cli) -> None:
    for path in ("/pods", "/events", "/persistentvolumeclaims"):
        recovered.fail("GET", path, 403, status_body(403, "Forbidden", "no", kind="x"))
    done = cli("describe", "mnist")
    assert done.code == 0
    assert "Workers\n" not in done.out and "Events\n" not in done.out


def test_a_job_that_was_just_submitted_can_be_described(api: FakeApi, cli: Cli) -> None:
    api.put(JOBS, job())
    done = cli("describe", "mnist")
    assert done.code == 0
    assert "none: a failure starts training again from step 0" in done.out
    assert "nobody has looked at it yet" in done.out


def seen(*conditions: dict[str, Any], spec: dict[str, Any] | None = None, **status: Any) -> Job:
    return Job(job(**(spec or {})) | {"status": {"conditions": list(conditions), **status}})


CHECKPOINT = {"lastCommitted": {"step": 20, "digest": "d", "path": "mnist/checkpoints/step-00000020"}}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (seen(condition("Succeeded", "True"), spec={"checkpoint": {"volume": {"size": "1Gi"}}}, checkpoint=CHECKPOINT),
         "the trained model: claim mnist-checkpoints, mnist/checkpoints/step-00000020"),
        (seen(condition("Failed", "True"), checkpoint=CHECKPOINT), "it goes on from step 20"),
        (seen(condition("Failed", "True")), "it starts from step 0"),
        (seen(condition("Suspended", "True")), "disttrain resume mnist"),
        (seen(condition("Admitted", "False", "ClaimNotFound", "create the claim")), "create the claim"),
        (seen(condition("WorkersReady", "False", "ErrImagePull", "x"), state="ErrImagePull"), "is 'trainer:dev' right"),
        (seen(condition("WorkersReady", "False", "Unschedulable", "x")), "no node has room"),
        (seen(state="Suspending"), "the workers save a checkpoint first"),
        (seen(state="Running"), "disttrain logs mnist -f"),
    ],
)  # fmt: skip
def test_there_is_always_something_to_do_next(found: Job, says: str) -> None:
    assert says in " | ".join(advice.for_job(found))
