"""From a snapshot to a committed checkpoint. Runs beside training; knows nothing of it but the snapshot."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from disttrain_contract.paths import MANIFEST
from disttrain_runtime.checkpoint.durable import sync_directory, write_file
from disttrain_runtime.checkpoint.fence import Fence
from disttrain_runtime.checkpoint.manifest import FileEntry, Fingerprint, Manifest, Sampling, encode
from disttrain_runtime.checkpoint.retention import to_delete
from disttrain_runtime.checkpoint.snapshot import Snapshot
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.errors import FencedError

REASONS = {
    errno.ENOSPC: "DiskFull",
    errno.EDQUOT: "DiskFull",
    errno.EROFS: "ReadOnly",
    errno.EACCES: "ReadOnly",
    errno.EPERM: "ReadOnly",
}
"""What a person must look after; everything else is `IOError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the manifest says beside the files."""

    job: str
    step: int
    world_size: int
    epoch: int
    position: int
    sampling: Sampling
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint that is on the disk."""

    step: int
    digest: str
    path: Path
    bytes: int


def write(volume: Volume, fence: Fence, snapshot: Snapshot, facts: Facts) -> Committed:
    """Write, flush, and commit under the fence. On an error nothing is left behind, and nothing was committed.

    Raises OSError (a full, read-only or broken disk) or FencedError (a newer incarnation owns the job).
    """
    draft = volume.draft(facts.step)
    try:
        entries = []
        for name, file in snapshot.files.items():
            entries.append(FileEntry(name, *write_file(draft / name, file.parts)))
        data, digest = encode(_manifest(facts, fence, entries))
        write_file(draft / MANIFEST, [data])
        sync_directory(draft)
        with fence.held():
            volume.put(draft, facts.step)
    except Exception:
        volume.try_discard(draft)
        raise
    return Committed(facts.step, digest, volume.path(facts.step), sum(e.bytes for e in entries) + len(data))


def retire(
    volume: Volume, fence: Fence, latest: int, rejected: Collection[int], keep: int, best: Sequence[int] = ()
) -> None:
    """Delete what retention no longer wants. Never fails: the commit before it counts.

    Under the fence the names go, and only there: who was overtaken since its commit does not know what the next
    incarnation goes on from. The contents go afterwards, and hold up no claim.
    """
    trash: list[Path] = []
    with suppress(OSError, FencedError), fence.held():
        for step in to_delete(volume.steps(), latest, rejected, keep, best):
            with suppress(OSError):
                trash.append(volume.set_aside(volume.path(step)))
    for path in trash:
        volume.try_discard(path)


def reason(error: OSError) -> str:
    """The CamelCase reason of a checkpoint problem."""
    return REASONS.get(error.errno or 0, "IOError")


def explain(error: OSError, volume: Volume) -> str:
    """What is wrong with the volume, and how to mend it."""
    place = volume.job_dir
    match reason(error):
        case "DiskFull" if error.errno == errno.EDQUOT:
            return f"the quota of the checkpoint volume is used up (at {place}): ask for a larger one or lower checkpoint.keep"
        case "DiskFull":
            return f"the checkpoint volume is full ({_free(place)} free at {place}): enlarge the claim or lower checkpoint.keep"
        case "ReadOnly":
            return f"the checkpoint volume is read-only at {place} ({error.strerror}): check the claim's access mode and fsGroup"
        case _:
            return f"the checkpoint volume at {place} failed ({error.strerror or error}): check the storage behind the claim"


def _manifest(facts: Facts, fence: Fence, entries: list[FileEntry]) -> Manifest:
    return Manifest(
        job=facts.job,
        job_uid=fence.holder.job_uid,
        incarnation=fence.holder.incarnation,
        step=facts.step,
        world_size=facts.world_size,
        epoch=facts.epoch,
        position=facts.position,
        sampling=facts.sampling,
        fingerprint=facts.fingerprint,
        files=tuple(entries),
    )


def _free(place: Path) -> str:
    try:
        status = os.statvfs(place)
    except OSError:
        return "unknown space"
    if status.f_files and not status.f_favail:
        return "no inode"
    return f"{status.f_bavail * status.f_frsize / 1e6:.1f} MB"
