"""Find the newest checkpoint that verifies. What is loaded is what was verified: the very bytes, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from disttrain_contract.paths import MANIFEST
from disttrain_runtime.checkpoint.manifest import (
    MAX_BYTES,
    Expectation,
    FileEntry,
    Fingerprint,
    ForeignError,
    Manifest,
    RejectedError,
    check,
    decode,
)
from disttrain_runtime.checkpoint.snapshot import STRUCTURE, SUFFIX
from disttrain_runtime.checkpoint.structure import put_together
from disttrain_runtime.checkpoint.tensor_file import parse
from disttrain_runtime.checkpoint.volume import Folder, Volume


@dataclass(frozen=True, slots=True)
class Verified:
    """A checkpoint whose every byte was checked."""

    manifest: Manifest
    digest: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of the search."""

    verified: Verified | None
    skipped: tuple[str, ...] = ()
    """A sentence for each newer one."""
    rejected: frozenset[int] = frozenset()
    """Their steps."""
    foreign: tuple[str, ...] = ()
    """Those of the sentences that are about intact checkpoints of something else."""
    source: str = "volume"


def newest(volume: Volume, expected: Expectation) -> Found:
    """Look from the newest to the oldest; the first that verifies wins."""
    skipped: list[str] = []
    foreign: list[str] = []
    rejected: set[int] = set()
    for step in volume.steps():
        try:
            return Found(verify(volume.path(step), step, expected), tuple(skipped), frozenset(rejected), tuple(foreign))
        except RejectedError as error:
            skipped.append(f"step {step}: {error}")
            rejected.add(step)
            if isinstance(error, ForeignError):
                foreign.append(skipped[-1])
    return Found(None, tuple(skipped), frozenset(rejected), tuple(foreign))


def verify(path: Path, step: int, expected: Expectation) -> Verified:
    """Read one checkpoint; what its manifest does not name is not looked at. Raises RejectedError, whatever is wrong."""
    with Folder(path) as folder:
        manifest, digest = decode(folder.read(MANIFEST, at_most=MAX_BYTES))
        check(manifest, expected, step)
        files = {entry.name: _read(folder, entry) for entry in manifest.files}
    try:
        _require(assemble(files), manifest.fingerprint)
    except (ValueError, MemoryError) as error:
        raise RejectedError(f"its contents cannot be read: {error}") from error
    return Verified(manifest, digest, files)


def assemble(files: Mapping[str, bytes]) -> dict[str, Any]:
    """State from the files of a checkpoint. Raises ValueError when they do not fit together."""
    if STRUCTURE not in files:
        raise ValueError(f"{STRUCTURE} is missing")
    tensors = {name.removesuffix(SUFFIX): parse(data) for name, data in files.items() if name.endswith(SUFFIX)}
    return put_together(files[STRUCTURE], tensors)


def _require(state: Mapping[str, Any], fingerprint: Fingerprint) -> None:
    """The model's tensors are those that the manifest names, so that they will load."""
    held = state.get("model")
    found = held.items() if isinstance(held, Mapping) else ()
    tensors = {(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in found if isinstance(t, Tensor)}
    if tensors != {(p.name, p.dtype, p.shape) for p in fingerprint.parameters}:
        raise ValueError("the model's tensors are not those that its manifest names")


def _read(folder: Folder, entry: FileEntry) -> bytes:
    data = folder.read(entry.name, size=entry.bytes)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise RejectedError(f"{entry.name} does not match its digest")
    return data
