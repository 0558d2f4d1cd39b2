"""The files of a checkpoint in memory: what the writer gets, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STRUCTURE = "structure.json"
SUFFIX = ".safetensors"

Parts = tuple[bytes | memoryview, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a checkpoint, ready to be written. Valid until the buffers take the next one."""

    files: Mapping[str, Parts]
