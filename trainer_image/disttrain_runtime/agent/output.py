"""Where the ranks' output goes: prefixed to our own standard output, and a copy of each rank's to the volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from disttrain_contract.paths import log_file, stacks_file
from disttrain_runtime.agent.launch import SPARE, RankSpec
from disttrain_runtime.agent.writer import VolumeFiles, Writer, write_stdout


class Output:
    """Never blocks the event loop, never fails."""

    def __init__(self, job_directory: PurePosixPath | None, on_room: Callable[[], None]) -> None:
        """`on_room` is called on another thread, when standard output takes more again."""
        self.incarnation = 0
        """Whose ranks are speaking."""
        self._directory = job_directory
        self._stdout = Writer("stdout", write_stdout, on_room)
        self._volume = Writer("volume-log", VolumeFiles(self.say).write) if job_directory else None

    @property
    def full(self) -> bool:
        """Ranks should be kept from printing more."""
        return self._stdout.full

    def say(self, text: str) -> None:
        """A line of the agent's own."""
        self._stdout.put("", f"[agent] {text}\n".encode(errors="replace"))

    def lines(self, spec: RankSpec, lines: list[bytes]) -> None:
        """What a rank printed."""
        prefix = b"[spare] " if spec.rank == SPARE else b"[rank %d] " % spec.rank
        self._stdout.put("", b"".join(prefix + line + b"\n" for line in lines))
        if spec.rank == SPARE or self._volume is None or self._directory is None:
            return  # what it prints while it waits is no rank's log
        if not self._volume.full:
            path = log_file(self._directory, self.incarnation, spec.rank)
            self._volume.put(str(path), b"\n".join(lines) + b"\n")

    def stacks(self, text: str) -> None:
        """Of all local ranks, when one of them hangs: here, and in a file beside their logs."""
        for line in text.splitlines():
            self.say(line)
        if self._volume is not None and self._directory is not None and not self._volume.full:
            self._volume.put(str(stacks_file(self._directory, self.incarnation)), text.encode(errors="replace"))

    def drain(self, timeout: float) -> None:
        """Blocks until all is written, but not for long: called once, at the end."""
        self._stdout.drain(timeout)
        if self._volume is not None:
            self._volume.drain(timeout)
