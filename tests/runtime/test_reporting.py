"""Messages to the agent, lines for people."""

from __future__ import annotations

import math
import os

from disttrain_contract.messages import Checkpoint, CheckpointProblem, Progress, Restore, decode_rank_message
from disttrain_runtime.reporting import Reporter, progress_line

SAVED = Checkpoint(
    step=10, digest="sha256:ab", path="/c/step-00000010", incarnation=1, time="2026-01-01T00:00:00Z", bytes=10
)


class Listener:
    """An agent's end of the pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def heard(self) -> list[object]:
        os.close(self.writer)
        with os.fdopen(self.reader, "rb") as lines:
            return [decode_rank_message(line)[1] for line in lines]


def test_what_is_said_is_what_the_agent_hears() -> None:
    listener, lines = Listener(), []
    reporter = Reporter(listener.writer, lines.append, clock=lambda: 0.0)
    said = [Restore(step=0, source="none"), Progress(step=1, loss=2.5, metrics={"accuracy": 0.5}), SAVED]
    reporter.restored(said[0])  # type: ignore[arg-type]
    reporter.progress(said[1])  # type: ignore[arg-type]
    reporter.checkpoint(SAVED)
    assert listener.heard() == said


def test_the_log_gets_a_line_every_ten_seconds_and_the_last_one() -> None:
    lines: list[str] = []
    now = [0.0]
    listener = Listener()
    reporter = Reporter(listener.writer, lines.append, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        reporter.progress(Progress(step=second), last=second == 24)
    assert [line.split()[1] for line in lines] == ["0", "10", "20", "24"]
    assert len(listener.heard()) == 25


def test_without_an_agent_people_see_everything() -> None:
    lines: list[str] = []
    reporter = Reporter(None, lines.append, clock=lambda: 0.0)
    reporter.restored(Restore(step=40, source="volume", digest="sha256:" + "0" * 64, skipped=("step 50: torn",)))
    reporter.progress(
        Progress(
            step=41, total_steps=300, epoch=2, loss=0.5321, samples_per_second=1240.2, metrics={"accuracy": 0.9712}
        )
    )
    reporter.checkpoint(CheckpointProblem(step=50, reason="DiskFull", message="the checkpoint volume is full"))
    assert lines == [
        "checkpoint skipped: step 50: torn",
        "restored from step 40, sha256:000000000000, verified",
        "step 41/300  epoch 2  loss 0.5321  1240 samples/s  accuracy 0.9712",
        "checkpoint of step 50 was not saved: the checkpoint volume is full; training goes on",
    ]


def test_a_loss_that_is_not_a_number_is_left_out_of_the_status_but_not_of_the_log() -> None:
    listener, lines = Listener(), []
    Reporter(listener.writer, lines.append, clock=lambda: 0.0).progress(
        Progress(step=3, loss=math.nan, metrics={"a": math.inf, "b": 1.0})
    )
    (heard,) = listener.heard()
    assert heard == Progress(step=3, loss=None, metrics={"b": 1.0})
    assert "loss nan" in lines[0]


def test_an_agent_that_is_gone_does_not_stop_training() -> None:
    listener = Listener()
    os.close(listener.reader)
    reporter = Reporter(listener.writer, lambda line: None, clock=lambda: 0.0)
    reporter.progress(Progress(step=1))
    reporter.progress(Progress(step=2))


def test_a_line_shows_only_what_is_known() -> None:
    assert progress_line(Progress(step=7)) == "step 7"
