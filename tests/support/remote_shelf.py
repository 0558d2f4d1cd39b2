"""A second tier to damage, and checkpoints to put there; without torch."""

from __future__ import annotations

import uuid
from pathlib import Path

from disttrain_runtime.checkpoint.block import Block
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.remote_claim import step_of
from disttrain_runtime.checkpoint.remote_store import Store
from disttrain_runtime.checkpoint.snapshot import File, Snapshot
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import write
from support.shelf import Shelf


def memory_store() -> Store:
    """In this process only."""
    import fsspec

    root = f"/{uuid.uuid4().hex}"
    return Store(fsspec.filesystem("memory"), root, f"memory:/{root}")


def committed(shelf: Shelf, step: int) -> Path:
    """A checkpoint on the volume: whole for everybody who does not look into its tensors."""
    block = Block.make(100_000)
    block.map[:] = bytes([step % 256]) * 100_000
    files = {"structure.json": File(b"{}"), "model.safetensors": File(b"header", block)}
    return write(shelf.volume, shelf.fence, Snapshot(files), shelf.facts(step)).path


def fence_of(shelf: Shelf, holder: Holder) -> Fence:
    """Another process's."""
    return Fence(shelf.volume.job_dir, holder)


def new_volume(shelf: Shelf, holder: Holder) -> Shelf:
    """The same job with an empty volume, claimed."""
    job_dir = shelf.volume.job_dir.with_name(f"mnist-{uuid.uuid4().hex[:6]}")
    volume, fence = Volume(job_dir), Fence(job_dir, holder)
    volume.create()
    fence.claim()
    return Shelf(volume, fence)


def good(store: Store) -> list[int]:
    """Steps that have a manifest, newest first."""
    found = store.folders("checkpoints")
    return sorted((step_of(n) or 0 for n in found if store.exists(f"checkpoints/{n}/manifest.json")), reverse=True)
