"""The live view on a terminal."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console
from tests.sdk.conftest import condition, job

from disttrain.cli import follow
from disttrain.cli.follow import FollowView, panel
from disttrain.sdk import Job, JobSeen, Tick

NOW = datetime(2030, 1, 1, 0, 1, 23, tzinfo=UTC)
STATUS = {
    "state": "Running",
    "startTime": "2030-01-01T00:00:00Z",
    "workers": {"summary": "3/3"},
    "progress": {
        "step": 130,
        "totalSteps": 300,
        "epoch": 2,
        "loss": 0.32149,
        "samplesPerSecond": 1234.5,
        "etaSeconds": 80,
    },
    "checkpoint": {"lastCommitted": {"step": 120, "digest": "sha256:abc"}},
    "recovery": {"count": 1, "last": {"class": "Signal", "rank": 1, "recoverSeconds": 2.13, "lostSteps": 4}},
}


def seen(**status: object) -> JobSeen:
    return JobSeen(Job(job() | {"status": status}))


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False, markup=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())


def test_the_panel_shows_where_training_is() -> None:
    console = terminal()
    console.print(panel(seen(**STATUS).job, NOW))
    shown = text_of(console)
    assert "mnist  Running  1m23s" in shown
    assert "step 130/300 epoch 2  loss 0.3215  1,234 samples/s  ETA 1m20s" in shown
    assert "workers 3/3   checkpoint step 120   recoveries 1 (last: Signal on rank 1, 2.1 s, 4 steps lost)" in shown


def test_a_job_without_status_has_a_panel_too() -> None:
    console = terminal()
    console.print(panel(Job(job()), NOW))
    assert "mnist  Pending  -" in text_of(console)
    assert "workers 0/3   checkpoint -   recoveries 0" in text_of(console)


def test_lines_scroll_above_the_panel() -> None:
    console = terminal()
    with FollowView(console) as view:
        view.show(seen(**STATUS, conditions=[condition("Running", "True", "Running", "incarnation 1 runs")]))
        view.say("killing mnist-1", "bad")
    shown = text_of(console)
    assert shown.index("incarnation 1 runs") < shown.index("killing mnist-1")
    assert "step 130/300" in shown


def test_a_job_that_nobody_looks_at_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "UNSEEN_SECONDS", -1.0)
    console = terminal()
    with FollowView(console) as view:
        view.show(JobSeen(Job(job())))
        view.show(Tick())
        view.show(Tick())
    assert text_of(console).count("is the operator installed and well?") == 1


def test_a_repeated_condition_is_not_news_but_a_new_sentence_is() -> None:
    console = Console(file=io.StringIO(), width=200)
    with FollowView(console, plain_every=1e9) as view:
        for n in (1, 1, 2):
            view.show(seen(conditions=[condition("Restarting", "True", "Signal", f"incarnation {n} starts")]))
    assert text_of(console).count("incarnation 1 starts") == 1
    assert text_of(console).count("incarnation 2 starts") == 1
