"""`disttrain logs`."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console
from tests.cli.conftest import Cli
from tests.sdk.conftest import condition, job, pod
from tests.sdk.fake_api import JOBS, FakeApi, until

from disttrain.cli import logs
from disttrain.sdk import LogLine


@pytest.fixture
def two_ranks(api: FakeApi) -> FakeApi:
    api.put(JOBS, job(workers=2, checkpoint={"volume": {"claimName": "disk"}}))
    for index in range(2):
        api.put("pods", pod("mnist", index))
        api.print(f"mnist-{index}", "agent is up", f"[rank {index}] hello", f"[rank {index}] loss 0.{index}")
    return api


def test_lines_carry_their_rank_and_agents_their_pod(two_ranks: FakeApi, cli: Cli) -> None:
    assert cli("logs", "mnist").out.splitlines() == [
        "[mnist-0] agent is up", "[rank 0] hello", "[rank 0] loss 0.0", "[mnist-1] agent is up", "[rank 1] hello", "[rank 1] loss 0.1",
    ]  # fmt: skip


def test_ranks_can_be_chosen(two_ranks: FakeApi, cli: Cli) -> None:
    assert cli("logs", "mnist", "--rank", "1").out == "[rank 1] hello\n[rank 1] loss 0.1\n"
    done = cli("logs", "mnist", "--rank", "one")
    assert (done.code, done.err) == (
        2,
        "error: 'one' is not a rank or a range of ranks\n  → for example: --rank 0,3-5\n",
    )


def test_long_lines_stay_whole_in_a_pipe(two_ranks: FakeApi, cli: Cli) -> None:
    two_ranks.print("mnist-0", "[rank 0] " + "x" * 5000)
    assert "x" * 5000 in cli("logs", "mnist").out


def test_brackets_are_not_markup(two_ranks: FakeApi, cli: Cli) -> None:
    two_ranks.print("mnist-0", "[rank 0] [bold]tensor([1, 2])[/bold] :smile:")
    assert "[bold]tensor([1, 2])[/bold] :smile:" in cli("logs", "mnist").out


def test_a_log_is_shown_as_it_was_printed_and_what_status_keeps_of_it_is_not(two_ranks: FakeApi, cli: Cli) -> None:
    two_ranks.print("mnist-0", "[rank 0] \x1b[32mgreen\x1b[0m")
    assert "\x1b[32mgreen\x1b[0m" in cli("logs", "mnist").out, "as kubectl logs: a program's colours are its own"
    last = {"rank": 0, "pod": "mnist-0", "incarnation": 1, "class": "CodeError", "traceback": "\x1b[2JValueError"}
    two_ranks.status("mnist", recovery={"count": 1, "last": last})
    assert "^[[2JValueError" in cli("logs", "mnist", "--errors").out


def test_following_ends_with_the_job(two_ranks: FakeApi, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disttrain.sdk.logs.LAST_WORDS_SECONDS", 0.3)

    def life() -> None:
        until(lambda: any(path.endswith("/log") for _, path, _ in list(two_ranks.requests)))
        two_ranks.print("mnist-0", "[rank 0] later")
        two_ranks.status("mnist", conditions=[condition("Succeeded", "True")])

    threading.Thread(target=life, daemon=True).start()
    done = cli("logs", "mnist", "-f")
    assert done.code == 0
    assert "[rank 0] later" in done.out


def test_errors_show_the_first_failing_rank_first(two_ranks: FakeApi, cli: Cli) -> None:
    two_ranks.print("mnist-0", "[rank 0] RuntimeError: connection reset by peer")
    two_ranks.print(
        "mnist-1", "[rank 1] Traceback (most recent call last):", "[rank 1]   File x", "[rank 1] ValueError: bad sample"
    )
    last = {
        "rank": 1,
        "pod": "mnist-1",
        "class": "CodeError",
        "incarnation": 1,
        "traceback": "Traceback (most recent call last):\nValueError: bad sample",
    }
    two_ranks.status("mnist", recovery={"count": 1, "last": last})
    said = cli("logs", "mnist", "--errors").out
    assert said.startswith("── last failure, as the operator knows it: rank 1 in mnist-1, incarnation 1: CodeError")
    assert said.index("── rank 1 in mnist-1") < said.index("── rank 0 in mnist-0")
    assert "hello" not in said


def test_no_errors_is_good_news(two_ranks: FakeApi, cli: Cli) -> None:
    done = cli("logs", "mnist", "--errors")
    assert (done.code, done.out, done.err) == (0, "", "no errors in the logs of mnist\n")


def test_logs_of_pods_that_are_gone_are_on_the_volume_and_it_says_where(two_ranks: FakeApi, cli: Cli) -> None:
    done = cli("logs", "mnist", "--previous")
    assert "── mnist-0: no log: previous terminated container" in done.out
    assert "in claim disk: mnist/logs/incarnation-NNNN/rank-N.log" in done.err


def test_looking_back_and_following_exclude_each_other(cli: Cli) -> None:
    assert cli("logs", "mnist", "-f", "--errors").code == 2


def test_each_rank_has_its_colour_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False, markup=False)
    logs.show([LogLine("p", rank, "t", "x") for rank in (0, 1, 0)], console)
    assert isinstance(console.file, io.StringIO)
    first, second, third = console.file.getvalue().splitlines()
    assert first == third
    assert first.split("[rank")[0] != second.split("[rank")[0]
