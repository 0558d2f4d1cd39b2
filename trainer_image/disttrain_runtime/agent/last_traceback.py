"""Find the Python traceback that killed a program in what it printed to stderr. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_HEADER = "Traceback (most recent call last):"
_RANK_PREFIX = re.compile(r"^\[(?:default|rank)?\d+\]: ?")
"""torch's exception hook puts `[rank0]: ` before every line of a traceback; torchrun's tee puts `[default0]:`."""
_FATAL = "Fatal Python error: "
_MESSENGERS = ("torch.distributed.elastic.multiprocessing.errors.ChildFailedError",)
"""Exceptions that only say that another process failed; the traceback before theirs is the real one."""


@dataclass(frozen=True, slots=True)
class LastTraceback:
    """A traceback and its last line: `ValueError: no`."""

    text: str
    message: str


def find(stderr: str) -> LastTraceback | None:
    """The last traceback that is not a mere messenger; else the fatal error that faulthandler printed; else None."""
    lines = [_RANK_PREFIX.sub("", line.rstrip()) for line in stderr.splitlines()]
    starts = [i for i, line in enumerate(lines) if line == _HEADER]
    best: LastTraceback | None = None
    for start, limit in pairwise([*starts, len(lines)]):
        found = _read(lines[start:limit])
        if found is not None and (best is None or not found.message.startswith(_MESSENGERS)):
            best = found
    return best or _fatal(lines)


def _read(lines: list[str]) -> LastTraceback | None:
    """Frames are indented; the first line that is not is the exception."""
    for i, line in enumerate(lines[1:], start=1):
        if line and not line.startswith(" "):
            return LastTraceback("\n".join(lines[: i + 1]), line)
    return None


def _fatal(lines: list[str]) -> LastTraceback | None:
    for i, line in enumerate(lines):
        if line.startswith(_FATAL):
            return LastTraceback("\n".join(lines[i : i + 60]), line.removeprefix(_FATAL))
    return None
