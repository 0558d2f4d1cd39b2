"""How an incarnation takes over a job's checkpoints: claim the directory, find the newest good one, give it to all ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from disttrain_contract.messages import Restore
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import Expectation, RejectedError
from disttrain_runtime.checkpoint.mirror_main import FENCED
from disttrain_runtime.checkpoint.mirror_request import MirrorAnswer
from disttrain_runtime.checkpoint.restore import Found, assemble, newest, verify
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import explain
from disttrain_runtime.errors import FencedError, ForeignCheckpointError, StorageError
from disttrain_runtime.groups import Group

Fetch = Callable[[Collection[str]], MirrorAnswer]
"""Brings the newest good copy of the second tier to the volume; these were fetched before, and were of no use."""
MAX_SENTENCES = 10
"""That many skipped checkpoints are named one by one."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What training starts from."""

    message: Restore
    state: dict[str, Any] | None = None
    rejected: frozenset[int] = frozenset()
    """Steps whose checkpoints did not verify. Known to rank 0 only."""


def open_volume(job_dir: Path, holder: Holder) -> tuple[Volume, Fence]:
    """Rank 0 takes over the directory. From here on no older incarnation can commit.

    Raises StorageError when nothing could be saved there: better to fail now than to train for hours unprotected.
    """
    volume, fence = Volume(job_dir), Fence(job_dir, holder)
    try:
        volume.create()
        fence.claim()
    except OSError as error:
        raise StorageError(f"training was not started, because {explain(error, volume)}") from error
    return volume, fence


def restore(volume: Volume | None, expected: Expectation, group: Group, fetch: Fetch | None = None) -> Restored:
    """A collective. Rank 0 looks and verifies; all ranks load the very bytes that it verified.

    One reader instead of one per rank: the volume is read and hashed once, need not be mounted everywhere, and no
    two ranks can come to different conclusions.
    """
    found = search(volume, expected, fetch) if volume is not None else Found(None)
    verified = found.verified
    head: dict[str, Any] = {"skipped": few(found.skipped), "source": found.source}
    if verified is not None:
        head |= {"step": verified.manifest.step, "digest": verified.digest, "files": list(verified.files)}
    head = json.loads(group.broadcast(json.dumps(head).encode()))
    skipped = tuple(head["skipped"])
    if "step" not in head:
        return Restored(Restore(step=0, source="none", skipped=skipped), None, found.rejected)
    files = {name: group.broadcast(verified.files[name] if verified else None) for name in head["files"]}
    message = Restore(step=head["step"], source=head["source"], digest=head["digest"], skipped=skipped)
    return Restored(message, assemble(files), found.rejected)


def few(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """The newest ones: a message to the agent has a limit."""
    more = len(sentences) - MAX_SENTENCES
    return (*sentences[:MAX_SENTENCES], f"and {more} older ones") if more > 0 else sentences


def search(volume: Volume, expected: Expectation, fetch: Fetch | None = None) -> Found:
    """The newest good one; of the second tier, when the volume has none. Raises when there is none but intact ones of
    another task: starting anew would bury them."""
    try:
        found = newest(volume, expected)
    except OSError as error:
        raise StorageError(f"training was not started, because {explain(error, volume)}") from error
    if found.verified is None and found.foreign:
        raise ForeignCheckpointError(
            f"the volume holds checkpoints that this task cannot continue ({'; '.join(few(found.foreign))}): "
            f"undo the change, give the job another name, or remove {volume.checkpoints}"
        )
    return found if found.verified is not None or fetch is None else _from_remote(volume, expected, found, fetch)


def _from_remote(volume: Volume, expected: Expectation, found: Found, fetch: Fetch) -> Found:
    """A store that cannot be asked may hold what a start at step 0 would bury: then the job does not start."""
    skipped, useless = list(found.skipped), set[str]()
    while True:
        got = fetch(useless)
        if got.reason == FENCED:
            raise FencedError(got.message)
        if got.reason:
            raise StorageError(
                f"training was not started, because the volume holds no good checkpoint and the remote one cannot be asked: {got.message}"
            )
        skipped += got.skipped
        if not got.name and got.foreign:
            raise ForeignCheckpointError(
                f"checkpoint.remote holds checkpoints that this task cannot continue ({'; '.join(few(got.foreign))}): "
                f"undo the change, give the job another name, or remove them"
            )
        if not got.name:
            return replace(found, skipped=tuple(skipped))
        try:
            verified = verify(volume.path(got.step), got.step, expected)
        except RejectedError as error:
            skipped.append(f"remote step {got.step}: {error}")
            useless.add(got.name)
        else:
            return Found(verified, tuple(skipped), found.rejected - {got.step}, source="remote")
