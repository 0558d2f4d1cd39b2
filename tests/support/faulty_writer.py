"""The real writer process, on a machine where the n-th change to the disk goes wrong.

Started as `python faulty_writer.py PLAN ROOT FD RANK`: counts every call that changes a disk, does at the given one what
the plan says, and is the ordinary writer apart from that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHANGES = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "rmdir", "unlink")
"""The calls by which a commit changes the disk, or learns how it went."""
_rename = os.rename


@dataclass(frozen=True)
class Plan:
    """What happens instead of which call."""

    at: int
    fault: str
    """`kill`, `power` (contents and new names that were not flushed are lost, too), or the number of an OSError."""
    calls: tuple[str, ...] = CHANGES
    lasting: bool = False
    """All calls from there on, too."""

    def program(self) -> str:
        """What to run instead of the writer's own."""
        text = json.dumps(asdict(self))
        return f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import faulty_writer; faulty_writer.main({text!r})"


def main(text: str) -> None:
    """Spoil `os`, then be the writer."""
    plan = Plan(**json.loads(text))
    sys.path.insert(0, sys.argv[1])
    from disttrain_runtime.checkpoint import writer_main

    watch = _Watch(plan)
    receive = writer_main.receive
    writer_main.receive = lambda line: watch.armed(receive(line))  # reading the request is no part of a commit
    for name in plan.calls:
        setattr(os, name, watch.over(getattr(os, name)))
    writer_main.main(int(sys.argv[2]), int(sys.argv[3]))


class _Watch:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.count, self.on = plan, 0, False
        self._unflushed: dict[int, int] = {}
        """Files that were created and not flushed yet: inode → a descriptor that follows them through every rename."""
        self._unflushed_names: list[tuple[Path, Path]] = []
        """Renames, from and to, whose folder was not flushed yet."""

    def armed(self, request: Any) -> Any:
        """From the first request on, every call counts."""
        self.on = True
        return request

    def over(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return real(*args, **kwargs)
            self.count += 1
            hit = self.count == self.plan.at or (self.plan.lasting and self.count > self.plan.at)
            if hit:
                self._strike()
            result = real(*args, **kwargs)
            if self.plan.fault == "power":
                self._note(real.__name__, args, result)
            return result

        return call

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if name == "open" and args[1] & os.O_EXCL:  # the lock is no content, and a copy of its descriptor would hold it
            self._unflushed[os.fstat(result).st_ino] = os.dup(result)
        elif name == "fsync":
            flushed = os.fstat(args[0]).st_ino
            self._unflushed.pop(flushed, None)
            self._unflushed_names = [n for n in self._unflushed_names if n[1].parent.stat().st_ino != flushed]
        elif name in ("rename", "replace"):
            self._unflushed_names.append((Path(args[0]), Path(args[1])))

    def _strike(self) -> None:
        if self.plan.fault == "power":
            for fd in self._unflushed.values():
                os.ftruncate(fd, 0)
            for before, after in reversed(self._unflushed_names):
                if after.exists():  # part of what it held may be gone for good
                    _rename(after, before)
        if self.plan.fault in ("kill", "power"):
            os.kill(os.getpid(), signal.SIGKILL)
        number = int(self.plan.fault)
        raise OSError(number, os.strerror(number))
