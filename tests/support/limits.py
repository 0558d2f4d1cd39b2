"""Limits that the kernel really enforces, on processes of a story."""

from __future__ import annotations

import os
import resource
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import pytest
from dev.cluster import cgroups


class Group:
    """A control group of the story's own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._at = {root.name: root / name for root in cgroups.hierarchies()}

    def enter(self, pid: int) -> None:
        cgroups.enter(self._name, pid)

    def no_more_processes(self) -> None:
        """What is there lives on, and threads count."""
        self._write("pids", "pids.max", (self._folder("pids") / "pids.current").read_text())

    def any_number_of_processes(self) -> None:
        self._write("pids", "pids.max", "max")

    def processor(self, share: float) -> None:
        """Of one core."""
        period = 100_000
        if cgroups.is_v2():
            self._write("cpu", "cpu.max", f"{int(period * share)} {period}")
        else:
            self._write("cpu", "cpu.cfs_quota_us", str(int(period * share)))

    def memory(self) -> int:
        """Bytes in use."""
        name = "memory.current" if cgroups.is_v2() else "memory.usage_in_bytes"
        return int((self._folder("memory") / name).read_text())

    def limit_memory(self, size: int) -> None:
        self._write("memory", "memory.max" if cgroups.is_v2() else "memory.limit_in_bytes", str(size))

    def _write(self, controller: str, file: str, text: str) -> None:
        (self._folder(controller) / file).write_text(text)

    def _folder(self, controller: str) -> Path:
        """v1 has a hierarchy for each, or for two (`cpu,cpuacct`)."""
        if cgroups.is_v2():
            return next(iter(self._at.values()))
        return next(folder for name, folder in self._at.items() if controller in name.split(","))


@contextmanager
def own_group() -> Iterator[Group]:
    """Gone afterwards, with all that is in it."""
    name = f"disttrain-story-{uuid.uuid4().hex[:8]}"
    try:
        cgroups.make(name)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield Group(name)
    finally:
        cgroups.kill(name)
        cgroups.remove(name)


@contextmanager
def no_descriptor_left(pid: int = 0, but: int = 0) -> Iterator[None]:
    """Inside, the process (this one: 0) gets no more descriptors than `but`. Its open ones are its own, wherever they are."""
    own = pid or os.getpid()
    before = resource.prlimit(own, resource.RLIMIT_NOFILE)
    taken = {int(entry.name) for entry in Path(f"/proc/{own}/fd").iterdir()}  # the listing itself is one of them, here
    free = (number for number in count() if number not in taken)
    limit = next(islice(free, but, None))
    resource.prlimit(own, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(own, resource.RLIMIT_NOFILE, before)
