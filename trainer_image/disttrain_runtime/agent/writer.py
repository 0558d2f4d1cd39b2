"""Write on a thread of its own: a pipe that nobody reads or a volume that hangs must not stop the heartbeat."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from threading import Condition, Thread

BACKLOG = 1024 * 1024
"""Bytes that may wait; then standard output pushes back on the ranks, and the copy on the volume loses lines."""
MAX_LOG_FILE = 64 * 1024 * 1024
"""Per rank and incarnation: logs must not eat the room of the checkpoints beside them."""
RETRY_SECONDS = 30.0
"""After an error on the volume; a full disk may have room again."""


class Writer:
    """A queue and a daemon thread that empties it. `write` may block; nothing else here does."""

    def __init__(
        self, name: str, write: Callable[[str, bytes], None], on_room: Callable[[], None] | None = None
    ) -> None:
        self._write = write
        self._on_room = on_room
        self._queue: deque[tuple[str, bytes]] = deque()
        self._waiting = 0
        self._busy = False
        self._changed = Condition()
        Thread(target=self._run, name=name, daemon=True).start()

    @property
    def full(self) -> bool:
        """More waits than should."""
        return self._waiting >= BACKLOG

    def put(self, key: str, data: bytes) -> None:
        """Queue it, however much is there: the caller looks at `full`."""
        with self._changed:
            self._queue.append((key, data))
            self._waiting += len(data)
            self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until all is written, but not for ever."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                key, data = self._queue.popleft()
                self._busy = True
            self._write(key, data)
            with self._changed:
                was_full = self.full
                self._waiting -= len(data)
                self._busy = False
                self._changed.notify_all()
            if was_full and not self.full and self._on_room is not None:
                self._on_room()


def write_stdout(_key: str, data: bytes) -> None:
    """All of it to file descriptor 1; when nobody is there to read, it is gone."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except OSError:
        pass


class VolumeFiles:
    """Append to files on the job's volume; every error costs lines, never anything else."""

    def __init__(self, on_error: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_error = on_error
        self._clock = clock
        self._open: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._not_before = 0.0

    def write(self, path: str, data: bytes) -> None:
        """Best effort."""
        if self._clock() < self._not_before or self._sizes.get(path, 0) >= MAX_LOG_FILE:
            return
        try:
            os.write(self._descriptor(path), data)
        except OSError as error:
            self._not_before = self._clock() + RETRY_SECONDS
            self._on_error(f"the log copy on the volume loses lines: {error.strerror}: {path}")
            return
        self._sizes[path] = self._sizes.get(path, 0) + len(data)

    def _descriptor(self, path: str) -> int:
        if path not in self._open:
            here = str(PurePosixPath(path).parent)
            for other in [p for p in self._open if str(PurePosixPath(p).parent) != here]:
                os.close(self._open.pop(other))  # another incarnation's: it will write no more
            Path(here).mkdir(parents=True, exist_ok=True)
            self._open[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        return self._open[path]
