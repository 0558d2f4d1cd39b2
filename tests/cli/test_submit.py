"""`disttrain submit` and `follow`: exit codes are the job's result."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.sdk.conftest import condition, event, job, pod
from tests.sdk.fake_api import JOBS, FakeApi, until

File = Callable[[dict[str, Any]], str]
RUNNING = {"state": "Running", "workers": {"summary": "3/3"}, "progress": {"step": 10, "totalSteps": 30, "loss": 0.5}}


def soon(act: Callable[[], object], api: FakeApi) -> None:
    """When the follower watches."""

    def wait_and_act() -> None:
        until(lambda: any(query.get("watch") for _, _, query in list(api.requests)))
        act()

    threading.Thread(target=wait_and_act, daemon=True).start()


def test_away_from_a_terminal_it_returns_at_once_and_says_how_to_follow(api: FakeApi, cli: Cli, file: File) -> None:
    done = cli("submit", "-f", file(job()))
    assert (done.code, done.out) == (0, "")
    assert done.err == "disttrainjob mnist created\nfollow it: disttrain follow mnist -n ml\n"


def test_a_followed_job_that_succeeds_exits_0(api: FakeApi, cli: Cli, file: File) -> None:
    def life() -> None:
        api.status(
            "mnist", **RUNNING, conditions=[condition("Running", "True", "Running", "incarnation 1 runs on 3 workers")]
        )
        api.status(
            "mnist",
            state="Succeeded",
            conditions=[condition("Succeeded", "True", "WorkersFinished", "all 3 workers finished at step 30")],
        )

    soon(life, api)
    done = cli("submit", "-f", file(job()), "--follow")
    assert done.code == 0
    assert "Running            incarnation 1 runs on 3 workers" in done.out
    assert "mnist Succeeded: all 3 workers finished at step 30" in done.out
    assert "→ what it printed: disttrain logs mnist -n ml" in done.out


def test_a_followed_job_that_fails_exits_1_with_its_traceback_and_what_to_do(
    api: FakeApi, cli: Cli, file: File
) -> None:
    last = {
        "class": "CodeError",
        "rank": 1,
        "pod": "mnist-1",
        "traceback": "Traceback (most recent call last):\nValueError: no",
        "cause": "ValueError: no",
    }
    failed = [condition("Failed", "True", "BudgetExhausted", "failure 6, allowed are 5")]
    soon(lambda: api.status("mnist", state="Failed", conditions=failed, recovery={"count": 5, "last": last}), api)
    done = cli("submit", "-f", file(job()), "--follow")
    assert done.code == 1
    assert "mnist Failed: failure 6, allowed are 5" in done.out
    assert "│ ValueError: no" in done.out
    assert "disttrain logs mnist -n ml --errors" in done.out


def test_a_job_that_is_deleted_while_it_is_followed_exits_1(api: FakeApi, cli: Cli, file: File) -> None:
    soon(lambda: api.remove(JOBS, "mnist"), api)
    done = cli("submit", "-f", file(job()), "--follow")
    assert done.code == 1
    assert "job mnist was deleted; its checkpoints stay" in done.out


def test_ctrl_c_exits_130_and_the_job_goes_on(api: FakeApi, cli: Cli) -> None:
    api.put(JOBS, job())
    soon(lambda: os.kill(os.getpid(), signal.SIGINT), api)
    done = cli("follow", "mnist")
    assert done.code == 130
    assert "the job goes on; watch it again: disttrain follow mnist -n ml" in done.err
    assert (JOBS, "ml", "mnist") in api.objects


def test_events_and_pod_warnings_are_lines_and_nothing_is_said_twice(api: FakeApi, cli: Cli) -> None:
    raw = api.put(JOBS, job())
    restart = "rank 1 on mnist-1: killed; incarnation 2 starts"

    def life() -> None:
        api.put("events", event(pod("mnist", 1), "BackOff", "Back-off pulling image", kind="Warning"))
        api.put("events", event(raw, "Signal", restart, kind="Warning"))
        api.status(
            "mnist",
            conditions=[
                condition("Running", "False", "Restarting", restart),
                condition("Restarting", "True", "Signal", restart),
            ],
        )
        until(lambda: True)
        ended = "all 3 workers finished"
        api.status(
            "mnist",
            conditions=[
                condition("Running", "False", "Finished", ended),
                condition("Succeeded", "True", "WorkersFinished", ended),
            ],
        )

    soon(lambda: threading.Timer(0.3, life).start(), api)
    done = cli("follow", "mnist")
    assert done.code == 0
    assert done.out.count(restart) == 1
    assert done.out.count("all 3 workers finished\n") == 2  # the line, and the summary
    assert "Finished           all" not in done.out.replace("WorkersFinished", "")


def test_progress_is_told_in_plain_lines(api: FakeApi, cli: Cli) -> None:
    api.put(JOBS, job())
    api.status("mnist", **RUNNING | {"checkpoint": {"lastCommitted": {"step": 5, "digest": "sha256:x"}}})
    soon(lambda: api.status("mnist", state="Succeeded", conditions=[condition("Succeeded", "True")]), api)
    assert "step 10/30  loss 0.5  workers 3/3  checkpoint step 5" in cli("follow", "mnist").out


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (
            job(wrkers=1),
            ["error: the API server refuses the job", "spec.wrkers: unknown field, did you mean spec.workers?"],
        ),
        (
            job(workers=0),
            ["spec.workers: 0: should be greater than or equal to 1", "spec: set exactly one of entrypoint"],
        ),
        ({"kind": "Pod"}, ["holds no DistTrainJob but: Pod"]),
        (job() | {"apiVersion": "disttrain.dev/v2"}, ["this client speaks disttrain.dev/v1alpha1"]),
    ],
)
def test_a_wrong_file_exits_2_and_says_what_is_wrong(
    cli: Cli, file: File, raw: dict[str, Any], says: list[str]
) -> None:
    done = cli("submit", "-f", file(raw))
    assert done.code == 2
    assert all(sentence in done.err for sentence in says), done.err
    assert "Traceback" not in done.err


def test_a_finished_job_is_not_run_again_and_it_says_how_to(api: FakeApi, cli: Cli, file: File) -> None:
    api.put(JOBS, job())
    api.status("mnist", state="Succeeded", conditions=[condition("Succeeded", "True")])
    done = cli("submit", "-f", file(job()), "--follow")
    assert done.code == 0
    assert "disttrainjob mnist unchanged" in done.err
    assert "it has succeeded already; to run it again: disttrain delete mnist --wait" in done.err


def test_a_dry_run_says_so_and_leaves_nothing(api: FakeApi, cli: Cli, file: File) -> None:
    done = cli("submit", "-f", file(job()), "--dry-run")
    assert (done.code, done.err) == (0, "disttrainjob mnist created (dry run)\n")
    assert not api.objects


def test_the_namespace_of_the_file_and_of_the_command_line_must_agree(api: FakeApi, cli: Cli, file: File) -> None:
    raw = job()
    raw["metadata"]["namespace"] = "a"
    done = cli("submit", "-f", file(raw), "-n", "b")
    assert done.code == 2
    assert "says namespace 'a', the command line says 'b'" in done.err
    assert cli("submit", "-f", file(raw)).code == 0
    assert (JOBS, "a", "mnist") in api.objects


def test_called_by_kubectl_it_speaks_of_kubectl(cli: Cli, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl-disttrain"])
    assert "kubectl disttrain follow mnist" in cli("submit", "-f", file(job())).err
