"""The file of measurements is that of a run without failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tensorboardX")

from tensorboardX.proto.event_pb2 import Event

from disttrain_runtime.history import History, Line, decode


def training(step: int) -> Line:
    return Line(step=step, time=step * 1.5, epoch=0, loss=1 / step)


def evaluation(step: int) -> Line:
    return Line(step=step, time=step * 1.5, evaluation={"accuracy": step / 100})


def opened(folder: Path, step: int) -> History:
    history = History()
    history.open(folder, step)
    return history


def put(history: History, line: Line) -> None:
    if history.add(line):
        history.write(line)


def board(folder: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard reads: records of length, checksum, event, checksum."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            found += [(v.tag, event.step, round(v.simple_value, 6)) for v in event.summary.value]
            data = data[16 + size :]
    return found


def test_lines_are_json_and_say_what_is_there(tmp_path: Path) -> None:
    history = opened(tmp_path, 0)
    put(history, training(5))
    put(history, evaluation(5))
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first == {"step": 5, "time": 7.5, "epoch": 0, "loss": 0.2}
    assert second == {"step": 5, "time": 7.5, "evaluation": {"accuracy": 0.05}}
    assert board(tmp_path) == [("training/loss", 5, 0.2), ("evaluation/accuracy", 5, 0.05)]


def test_who_goes_on_from_an_earlier_step_takes_back_what_came_after_it(tmp_path: Path) -> None:
    history = opened(tmp_path, 0)
    for step in (5, 10, 15):
        put(history, training(step))
        put(history, evaluation(step))
    again = opened(tmp_path, 10)
    assert [line.step for line in again.lines] == [5, 5, 10, 10]
    put(again, training(15))
    put(again, evaluation(15))
    whole = decode((tmp_path / "metrics.jsonl").read_bytes())
    assert whole == history.lines
    assert sorted(board(tmp_path)) == sorted(
        [("training/loss", s, round(1 / s, 6)) for s in (5, 10, 15)]
        + [("evaluation/accuracy", s, s / 100) for s in (5, 10, 15)]
    )


def test_a_step_has_one_line_of_each_kind_however_often_it_is_settled(tmp_path: Path) -> None:
    history = opened(tmp_path, 0)
    for _ in range(2):
        put(history, training(5))
        put(history, evaluation(5))
    assert len(decode((tmp_path / "metrics.jsonl").read_bytes())) == 2
    assert len(board(tmp_path)) == 2


def test_a_torn_line_is_dropped_and_the_file_is_whole_again(tmp_path: Path) -> None:
    history = opened(tmp_path, 0)
    put(history, training(5))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 10, "ti')
    put(opened(tmp_path, 10), training(10))
    assert [line.step for line in decode((tmp_path / "metrics.jsonl").read_bytes())] == [5, 10]


def test_without_a_volume_memory_serves() -> None:
    history = History()
    for step in (5, 10):
        put(history, evaluation(step))
    history.rewind(7)
    assert history.has(5, "evaluation") and not history.has(10, "evaluation")
