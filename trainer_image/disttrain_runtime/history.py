"""What was measured, line by line: `metrics.jsonl` in the job's directory, and the same for TensorBoard.

A line belongs to a step. A run that goes on from an earlier step drops the lines behind it and writes them again, so
the file is that of a run without any failure: nothing is missing, nothing is there twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from disttrain_contract.paths import METRICS, TENSORBOARD
from disttrain_runtime.checkpoint.durable import replace_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One measurement. `loss` is the training loss of that very step; `evaluation` is there when there was one."""

    step: int
    time: float
    epoch: int | None = None
    loss: float | None = None
    evaluation: Mapping[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """A step has at most one line of each."""
        return "evaluation" if self.evaluation else "training"

    def encode(self) -> bytes:
        """A line of the file. What is not there is not said."""
        said: dict[str, Any] = {"step": self.step, "time": round(self.time, 3)}
        said |= {"epoch": self.epoch} if self.epoch is not None else {}
        said |= {"loss": self.loss} if self.loss is not None else {}
        said |= {"evaluation": dict(self.evaluation)} if self.evaluation else {}
        return json.dumps(said).encode() + b"\n"


def decode(data: bytes) -> list[Line]:
    """Lines up to the first that is none of ours: the last one may be torn."""
    found: list[Line] = []
    for text in data.split(b"\n")[:-1]:
        try:
            found.append(Line(**json.loads(text)))
        except (ValueError, TypeError):
            break
    return found


def until(lines: Iterable[Line], step: int) -> list[Line]:
    """Those of the present past."""
    return [line for line in lines if line.step <= step]


class History:
    """Lines in memory, and where there is a volume also there. Rank 0's; whoever writes holds the fence."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._path: Path | None = None
        self._board: Board | None = None

    def open(self, job_dir: Path, step: int) -> None:
        """Go on from this step. Raises OSError."""
        self._path = job_dir / METRICS
        data = self._path.read_bytes() if self._path.exists() else b""
        self.lines = until(decode(data), step)
        kept = b"".join(line.encode() for line in self.lines)
        if kept != data:
            replace_file(self._path, kept)
        if self._board is not None:
            self._board.close()
        self._board = Board(job_dir / TENSORBOARD, self.lines)

    def rewind(self, step: int) -> None:
        """The same without a volume."""
        self.lines = until(self.lines, step)

    def has(self, step: int, kind: str) -> bool:
        """Whether this was written already."""
        return any(line.step == step and line.kind == kind for line in reversed(self.lines))

    def add(self, line: Line) -> bool:
        """Remember it, once for each step and kind. False: it was there already."""
        if self.has(line.step, line.kind):
            return False
        self.lines.append(line)
        return True

    def write(self, line: Line) -> None:
        """To the disk. Raises OSError. Another thread may call this, but not while `open` is called."""
        if self._path is not None:
            _append(self._path, line.encode())
        if self._board is not None:
            self._board.add(line)


class Board:
    """TensorBoard's files, made anew from the lines: its own format cannot take anything back."""

    def __init__(self, folder: Path, lines: Iterable[Line]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._events = EventsWriter(str(folder / "events"))  # not SummaryWriter, which writes when a thread finds time
        for line in lines:
            self._put(line)
        self._events.flush()

    def add(self, line: Line) -> None:
        """Handed to the kernel when this returns: a rank ends without goodbye."""
        self._put(line)
        self._events.flush()

    def close(self) -> None:
        """Write no more."""
        self._events.close()

    def _put(self, line: Line) -> None:
        scalars = {f"evaluation/{name}": value for name, value in line.evaluation.items()}
        scalars |= {"training/loss": line.loss} if line.loss is not None else {}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._events.write_event(Event(wall_time=line.time, step=line.step, summary=Summary(value=values)))


def _append(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)
