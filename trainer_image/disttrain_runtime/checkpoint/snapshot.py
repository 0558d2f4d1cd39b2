"""The files of a checkpoint in memory: what the writer gets, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from disttrain_runtime.checkpoint.block import Block

STRUCTURE = "structure.json"
SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class File:
    """A few bytes, then many."""

    head: bytes
    body: Block | None = None

    @property
    def parts(self) -> tuple[bytes | memoryview, ...]:
        """What to write, in order."""
        return (self.head,) if self.body is None else (self.head, memoryview(self.body.map))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a checkpoint, ready to be written. Valid until the buffers take the next one."""

    files: Mapping[str, File]
