"""The newest checkpoint that verifies; nothing else is ever loaded."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

pytest.importorskip("torch")

from disttrain_runtime.checkpoint.manifest import FileEntry, Fingerprint, decode, encode
from disttrain_runtime.checkpoint.opening import search
from disttrain_runtime.checkpoint.restore import assemble, newest
from disttrain_runtime.errors import ForeignCheckpointError, StorageError
from support.shelf import SAMPLING, Shelf

pytestmark = pytest.mark.torch


def test_the_newest_one_wins_and_holds_what_was_saved(shelf: Shelf) -> None:
    for step in (10, 20, 30):
        shelf.save(step)
    found = newest(shelf.volume, shelf.expected)
    assert found.verified is not None
    assert (found.verified.manifest.step, found.skipped) == (30, ())
    state = assemble(found.verified.files)
    assert state["model"]["w"].tolist() == [30.0] * 64
    assert state["optimizer"] == {"state": {0: {"step": state["optimizer"]["state"][0]["step"]}}, "lr": 0.1}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def link_away(path: Path) -> None:
    away = path.parent.parent.parent / "elsewhere"
    path.rename(away)
    path.symlink_to(away)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors does not match its digest"),
        (lambda folder: flip(folder / "structure.json"), "structure.json does not match its digest"),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 20), "model.safetensors has 20 bytes instead of"),
        (lambda folder: os.truncate(folder / "manifest.json", 0), "its manifest cannot be read"),
        (lambda folder: os.truncate(folder / "manifest.json", 2**30), "manifest.json has 1073741824 bytes"),
        (lambda folder: link_away(folder / "model.safetensors"), "only plain files are read"),
        (lambda folder: link_away(folder), "its folder cannot be opened"),
        (lambda folder: make_pipe(folder / "model.safetensors"), "is not a plain file"),
        (lambda folder: make_pipe(folder / "manifest.json"), "is not a plain file"),
    ],
)
def test_a_damaged_one_is_skipped_with_a_reason_and_the_one_before_it_wins(
    shelf: Shelf, damage: Callable[[Path], object], why: str
) -> None:
    shelf.save(10)
    damage(shelf.save(20))
    found = newest(shelf.volume, shelf.expected)
    assert found.verified is not None
    assert found.verified.manifest.step == 10
    assert found.rejected == {20}
    (sentence,) = found.skipped
    assert sentence.startswith("step 20: ")
    assert why in sentence


class Unreadable:
    """An open file on a sick disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __enter__(self) -> Unreadable:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("name", ["manifest.json", "structure.json", "model.safetensors"])
@pytest.mark.parametrize("call", ["open", "read"])
def test_one_that_the_disk_cannot_read_is_skipped_and_the_one_before_it_wins(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    """Nothing is concluded from it but that: it stays where it is."""
    shelf.save(10)
    sick = (shelf.save(20) / name).stat().st_ino
    real_open, real_file = os.open, os.fdopen

    def opened(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        fd = real_open(path, flags, *args, **kwargs)
        if call == "open" and os.fstat(fd).st_ino == sick:
            os.close(fd)
            raise OSError(errno.EIO, "Input/output error")
        return fd

    def file(fd: int, mode: str) -> Any:
        found = real_file(fd, mode)
        return Unreadable(found) if call == "read" and os.fstat(fd).st_ino == sick else found

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fdopen", file)
    found = newest(shelf.volume, shelf.expected)
    assert found.verified is not None and found.verified.manifest.step == 10
    assert found.rejected == {20} and found.skipped[0].startswith(f"step 20: {name} cannot be {call}")
    assert "Input/output error" in found.skipped[0]
    assert shelf.volume.steps() == (20, 10)


def test_a_folder_that_the_disk_cannot_list_ends_the_start_with_a_reason(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing can be seen is not that nothing is there."""
    shelf.save(10)
    monkeypatch.setattr(os, "listdir", lambda path: _fail())
    monkeypatch.setattr(os, "scandir", lambda path: _fail())
    with pytest.raises(StorageError, match="training was not started.*Input/output error"):
        search(shelf.volume, shelf.expected)


def _fail() -> Any:
    raise OSError(errno.EIO, "Input/output error")


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and sign the manifest anew, as an attacker could who may write on the volume."""
    (folder / name).write_bytes(data)
    manifest, _ = decode((folder / "manifest.json").read_bytes())
    others = tuple(e for e in manifest.files if e.name != name)
    entry = FileEntry(name, len(data), hashlib.sha256(data).hexdigest())
    (folder / "manifest.json").write_bytes(encode(replace(manifest, files=(*others, entry)))[0])


PICKLE = b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", PICKLE),
        ("model.safetensors", struct.pack("<Q", 2**62) + b"{}"),
        ("model.safetensors", struct.pack("<Q", 10) + b"{" * 10),
        ("structure.json", PICKLE),
        ("structure.json", b"[" * 100_000),
        ("structure.json", b'{"model": {"dict": [["w", {"tensor": "no such"}]]}}'),
        ("structure.json", json.dumps({"model": {"__reduce__": "os.system"}}).encode()),
    ],
)
def test_a_forged_file_with_a_right_digest_is_still_not_loaded(shelf: Shelf, name: str, data: bytes) -> None:
    shelf.save(10)
    forge(shelf.save(20), name, data)
    found = newest(shelf.volume, shelf.expected)
    assert found.verified is not None
    assert found.verified.manifest.step == 10
    assert "its contents cannot be read" in found.skipped[0]


def test_a_forged_file_whose_tensors_would_not_load_is_not_accepted(shelf: Shelf) -> None:
    """A right digest, a right header, sixty-four numbers: but another shape than the manifest says."""
    shelf.save(10)
    header = b'{"w":{"dtype":"F32","shape":[8,8],"data_offsets":[0,256]}}'
    forge(shelf.save(20), "model.safetensors", struct.pack("<Q", len(header)) + header + bytes(256))
    found = newest(shelf.volume, shelf.expected)
    assert found.verified is not None
    assert found.verified.manifest.step == 10
    assert "not those that its manifest names" in found.skipped[0]


def test_drafts_trash_and_strangers_are_not_looked_at(shelf: Shelf) -> None:
    good = shelf.save(10)
    for name in (
        ".writing-00000020-abcd",
        ".removing-abcd",
        "step-20",
        "step-0000000020",
        "step-00000020.bak",
        "latest",
    ):
        good.parent.joinpath(name).mkdir()
    found = newest(shelf.volume, shelf.expected)
    assert (found.verified is not None, found.skipped) == (True, ())


def test_when_nothing_verifies_training_starts_anew_and_says_why(shelf: Shelf) -> None:
    flip(shelf.save(10) / "model.safetensors")
    found = search(shelf.volume, shelf.expected)
    assert found.verified is None
    assert found.skipped == ("step 10: model.safetensors does not match its digest",)


def test_an_intact_checkpoint_of_another_task_is_never_buried(shelf: Shelf) -> None:
    """The user changed the model under the same job name: starting from step 0 would in time delete the old work."""
    shelf.save(10)
    changed = replace(shelf.expected, fingerprint=Fingerprint(parameters=(), optimizer="torch.optim.adamw.AdamW"))
    with pytest.raises(
        ForeignCheckpointError,
        match="parameter w is only in the checkpoint.*undo the change, give the job another name",
    ):
        search(shelf.volume, changed)
    assert shelf.volume.steps() == (10,)


def test_an_older_one_that_fits_serves_although_a_newer_is_foreign(shelf: Shelf) -> None:
    shelf.save(10)
    shelf.save(20, sampling=replace(SAMPLING, batch_size=7))
    found = search(shelf.volume, shelf.expected)
    assert found.verified is not None
    assert found.verified.manifest.step == 10
    assert "batch_size was 7 and is 10" in found.skipped[0]
