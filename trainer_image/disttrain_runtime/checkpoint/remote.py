"""The second tier: copies of committed checkpoints in a store that fsspec can reach (s3, gs, az, abfs, file).

<url>/fence.json                            the claim: who owns the copies (see `remote_claim`)
<url>/checkpoints/step-00000040-1f2e3d4c/   the files of a checkpoint; its manifest comes last and is the commit

Every file is read back and compared with its digest before the manifest is written. Nothing here is pickled, and no
name in the store is trusted: only those that the manifest gives, which cannot point elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from disttrain_contract.paths import CHECKPOINTS, FENCE, MANIFEST
from disttrain_runtime.checkpoint import remote_claim
from disttrain_runtime.checkpoint.durable import CHUNK, sync_directory, write_file
from disttrain_runtime.checkpoint.fence import Fence, may_claim
from disttrain_runtime.checkpoint.manifest import (
    MAX_BYTES,
    Expectation,
    FileEntry,
    ForeignError,
    RejectedError,
    check,
    decode,
)
from disttrain_runtime.checkpoint.remote_claim import Claim, believed, folder_name, step_of
from disttrain_runtime.checkpoint.remote_store import Store
from disttrain_runtime.checkpoint.retention import to_delete
from disttrain_runtime.checkpoint.volume import Folder, Volume
from disttrain_runtime.errors import FencedError


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome of a search in the store; without a name nothing good was found."""

    name: str = ""
    step: int = 0
    digest: str = ""
    skipped: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


class Remote:
    """The copies of one job, from the point of view of one holder of its volume."""

    def __init__(self, store: Store, fence: Fence) -> None:
        self._store, self._fence = store, fence

    def claim(self) -> Claim:
        """Own the copies. What older owners put there from now on does not count.

        Raises FencedError when a newer incarnation owns them, StoreError when the store cannot be used.
        """
        present = self._read_claim()
        holder, claimant = self._fence.holder, self._fence.claimant
        if present is not None and (present.holder, present.claimant) == (holder, claimant):
            return present
        if present is not None and not may_claim(present.holder, holder):
            raise self._overtaken(present)
        claim = Claim(holder, claimant, believed(self._complete(), present))
        self._store.put(FENCE, remote_claim.encode(claim))
        self._require_mine()
        return claim

    def copy(self, volume: Volume, step: int, keep: int) -> str:
        """Copy a committed checkpoint unless it is there, then apply retention. Gives its digest.

        Raises RejectedError when what lies on the volume, or what comes back from the store, is not what its manifest
        says; FencedError; StoreError.
        """
        claim = self.claim()
        with Folder(volume.path(step)) as folder:
            written = folder.read(MANIFEST, at_most=MAX_BYTES)
            manifest, digest = decode(written)
            if manifest.step != step:
                raise RejectedError(f"its manifest is of step {manifest.step}")
            kept = next((n for n in believed(self._complete(), claim) if self._has(n, written)), None)
            if kept is None:
                kept = folder_name(step, claim.claimant)
                self._upload(folder, manifest.files, written, kept)
        self._retire(claim, step, keep)
        return digest

    def fetch(self, volume: Volume, expected: Expectation, avoid: Collection[str]) -> Fetched:
        """Bring the newest good copy to the volume and commit it there. Raises FencedError, StoreError, or OSError (the volume)."""
        skipped: list[str] = []
        foreign: list[str] = []
        for name in believed(self._complete(), self.claim()):
            if name in avoid:
                continue
            step = step_of(name) or 0
            try:
                digest = self._download(name, step, volume, expected)
            except RejectedError as error:
                skipped.append(f"remote step {step}: {error}")
                if isinstance(error, ForeignError):
                    foreign.append(skipped[-1])
            else:
                return Fetched(name, step, digest, tuple(skipped), tuple(foreign))
        return Fetched(skipped=tuple(skipped), foreign=tuple(foreign))

    def _upload(self, folder: Folder, files: Iterable[FileEntry], manifest: bytes, name: str) -> None:
        """Files first, read back; then the manifest. Retention may delete the source meanwhile: its files are open."""
        place = f"{CHECKPOINTS}/{name}"
        with folder.opened([entry.name for entry in files]) as sources:
            for entry, source in zip(files, sources, strict=True):
                sent = _Count()
                self._store.write(f"{place}/{entry.name}", sent.over(iter(partial(source.read, CHUNK), b"")))
                if not sent.is_(entry):
                    raise RejectedError(f"{entry.name} on the volume does not match its digest")
                self._verify(f"{place}/{entry.name}", entry)
        self._require_mine()
        self._store.put(f"{place}/{MANIFEST}", manifest)
        if self._store.get(f"{place}/{MANIFEST}", MAX_BYTES) != manifest:
            raise RejectedError("its manifest came back from the store changed")
        self._require_mine()

    def _verify(self, path: str, entry: FileEntry) -> None:
        back = _Count()
        for _ in back.over(self._store.read(path)):
            pass
        if not back.is_(entry):
            raise RejectedError(f"{entry.name} came back from the store changed")

    def _download(self, name: str, step: int, volume: Volume, expected: Expectation) -> str:
        place = f"{CHECKPOINTS}/{name}"
        data = self._store.get(f"{place}/{MANIFEST}", MAX_BYTES)
        if data is None:
            raise RejectedError(f"{MANIFEST} is missing")
        manifest, digest = decode(data)
        check(manifest, expected, step)
        draft = volume.draft(step)
        try:
            for entry in manifest.files:
                if write_file(draft / entry.name, self._pieces(place, entry)) != (entry.bytes, entry.sha256):
                    raise RejectedError(f"{entry.name} does not match its digest")
            write_file(draft / MANIFEST, [data])
            sync_directory(draft)
            with self._fence.held():
                volume.put(draft, step)
        except BaseException:
            volume.try_discard(draft)
            raise
        return digest

    def _pieces(self, place: str, entry: FileEntry) -> Iterator[bytes]:
        """Never more than the manifest says: a store that goes on for ever must not fill the volume."""
        seen = 0
        for piece in self._store.read(f"{place}/{entry.name}"):
            seen += len(piece)
            if seen > entry.bytes:
                raise RejectedError(f"{entry.name} has more than {entry.bytes} bytes")
            yield piece

    def _retire(self, claim: Claim, latest: int, keep: int) -> None:
        """What retention no longer wants, and what never became a checkpoint. Never fails: the commit before it counts.

        A store has no lock, so the claim is looked at before each removal, behind the listing: what is removed was there
        before anybody else could have put it there.
        """
        with suppress(Exception):
            good = believed(self._complete(), claim)
            old = to_delete({step_of(n) or 0 for n in good}, latest, (), keep)
            kept = {n for n in good if step_of(n) not in old}
            for name in self._store.folders(CHECKPOINTS):
                if step_of(name) is not None and name not in kept:
                    self._require_mine()
                    self._store.remove(f"{CHECKPOINTS}/{name}", first=MANIFEST)

    def _complete(self) -> tuple[str, ...]:
        names = (n for n in self._store.folders(CHECKPOINTS) if step_of(n) is not None)
        return tuple(n for n in names if self._store.exists(f"{CHECKPOINTS}/{n}/{MANIFEST}"))

    def _has(self, name: str, manifest: bytes) -> bool:
        """Already there: the same manifest, and each file as long as it says. Its bytes were verified when it was made."""
        path = f"{CHECKPOINTS}/{name}"
        if self._store.get(f"{path}/{MANIFEST}", MAX_BYTES) != manifest:
            return False
        return all(self._store.size(f"{path}/{e.name}") == e.bytes for e in decode(manifest)[0].files)

    def _read_claim(self) -> Claim | None:
        data = self._store.get(FENCE, remote_claim.MAX_BYTES)
        return remote_claim.decode(data) if data is not None else None

    def _require_mine(self) -> None:
        present = self._read_claim()
        if present is None or present.claimant != self._fence.claimant:
            raise self._overtaken(present)

    def _overtaken(self, present: Claim | None) -> FencedError:
        owner = f"incarnation {present.holder.incarnation}" if present else "nobody (its fence.json is gone)"
        return FencedError(
            f"the remote copies now belong to {owner}; incarnation {self._fence.holder.incarnation} copies nothing any more"
        )


class _Count:
    """Size and digest of what passes."""

    def __init__(self) -> None:
        self._digest, self._size = hashlib.sha256(), 0

    def over(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._digest.update(piece)
            self._size += len(piece)
            yield piece

    def is_(self, entry: FileEntry) -> bool:
        return (self._size, self._digest.hexdigest()) == (entry.bytes, entry.sha256)
