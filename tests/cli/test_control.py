"""`disttrain suspend`, `resume`, `delete`, `wait`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.cli.conftest import Cli
from tests.sdk.conftest import condition, job
from tests.sdk.fake_api import JOBS, FakeApi


@pytest.fixture
def one(api: FakeApi) -> FakeApi:
    api.put(JOBS, job(checkpoint={"volume": {"size": "1Gi"}}))
    return api


def later(act: Callable[[], object]) -> None:
    threading.Timer(0.4, act).start()


def test_suspend_and_resume_set_the_field(one: FakeApi, cli: Cli) -> None:
    assert cli("suspend", "mnist").out == "disttrainjob mnist is being suspended\n"
    assert one.objects[JOBS, "ml", "mnist"]["spec"]["suspend"] is True
    assert cli("resume", "mnist").out == "disttrainjob mnist is being resumed\n"
    assert one.objects[JOBS, "ml", "mnist"]["spec"]["suspend"] is False


def test_they_can_wait_until_it_has_happened(one: FakeApi, cli: Cli) -> None:
    later(lambda: one.status("mnist", conditions=[condition("Suspended", "True")]))
    assert cli("suspend", "mnist", "--wait").out == "disttrainjob mnist suspended\n"
    later(lambda: one.status("mnist", conditions=[condition("Running", "True")]))
    assert cli("resume", "mnist", "--wait").out == "disttrainjob mnist resumed\n"


def test_a_finished_job_cannot_be_suspended(one: FakeApi, cli: Cli) -> None:
    one.status("mnist", state="Succeeded", conditions=[condition("Succeeded", "True")])
    done = cli("suspend", "mnist")
    assert (done.code, done.err) == (2, "job mnist has succeeded already: there is nothing to suspend\n")


def test_delete_says_what_stays_and_how_to_remove_it(one: FakeApi, cli: Cli) -> None:
    done = cli("delete", "mnist", "--wait")
    assert done.out == "disttrainjob mnist deleted\n"
    assert "kubectl delete pvc mnist-checkpoints -n ml" in done.err
    assert not one.objects


@pytest.mark.parametrize(("ends", "code"), [("Succeeded", 0), ("Failed", 1)])
def test_waiting_exits_with_the_result(one: FakeApi, cli: Cli, ends: str, code: int) -> None:
    later(lambda: one.status("mnist", conditions=[condition(ends, "True")]))
    done = cli("wait", "mnist")
    assert (done.code, done.out) == (code, "")


def test_waiting_too_long_exits_124(one: FakeApi, cli: Cli) -> None:
    done = cli("wait", "mnist", "--timeout", "0.5")
    assert done.code == 124
    assert "error: job 'mnist' is still Pending after 0 s; it goes on" in done.err


def test_waiting_for_a_deletion_ends_with_it_and_at_once_when_there_is_nothing(one: FakeApi, cli: Cli) -> None:
    later(lambda: one.remove(JOBS, "mnist"))
    assert cli("wait", "mnist", "--for", "delete").code == 0
    assert cli("wait", "mnist", "--for", "delete").code == 0


def test_a_deleted_job_never_finishes(one: FakeApi, cli: Cli) -> None:
    later(lambda: one.remove(JOBS, "mnist"))
    done = cli("wait", "mnist")
    assert (done.code, done.err) == (1, "job mnist was deleted meanwhile\n")


def test_a_job_that_fails_before_it_runs_is_not_running(one: FakeApi, cli: Cli) -> None:
    later(lambda: one.status("mnist", conditions=[condition("Failed", "True")]))
    assert cli("wait", "mnist", "--for", "running").code == 1
