"""Writing beside the event loop: whatever the other side does, nobody waits for it."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from disttrain_runtime.agent import writer as w
from disttrain_runtime.agent.writer import VolumeFiles, Writer


def test_everything_is_written_in_order() -> None:
    got: list[tuple[str, bytes]] = []
    writer = Writer("test", lambda key, data: got.append((key, data)))
    for number in range(100):
        writer.put("k", b"%d" % number)
    assert writer.drain(10)
    assert got == [("k", b"%d" % number) for number in range(100)]


def test_a_reader_that_hangs_holds_up_nobody_and_the_backlog_is_seen() -> None:
    go, room = threading.Event(), threading.Event()
    writer = Writer("test", lambda key, data: go.wait(10) and None, room.set)
    began = time.monotonic()
    while not writer.full:
        writer.put("", bytes(64 * 1024))
    assert not writer.drain(0.01) and time.monotonic() - began < 5
    go.set()
    assert room.wait(10) and writer.drain(10) and not writer.full


def test_files_are_appended_to_and_made_with_their_folders(tmp_path: Path) -> None:
    files, path = VolumeFiles(pytest.fail), tmp_path / "a/b/rank-0.log"
    files.write(str(path), b"one\n")
    VolumeFiles(pytest.fail).write(str(path), b"two\n")
    files.write(str(tmp_path / "a/c/rank-0.log"), b"next incarnation\n")
    files.write(str(path), b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_full_disk_costs_lines_and_one_complaint_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    now = [0.0]
    files, path = VolumeFiles(said.append, clock=lambda: now[0]), str(tmp_path / "log")
    write = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    files.write(path, b"lost\n")
    monkeypatch.setattr(os, "write", write)
    files.write(path, b"lost, too: not asked again so soon\n")
    now[0] += w.RETRY_SECONDS
    files.write(path, b"kept\n")
    assert Path(path).read_text() == "kept\n"
    assert len(said) == 1 and "No space left on device" in said[0]


def test_a_volume_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    VolumeFiles(said.append).write(str(tmp_path / "file" / "log"), b"x")
    assert len(said) == 1


def test_logs_do_not_eat_the_room_of_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w, "MAX_LOG_FILE", 10)
    files, path = VolumeFiles(pytest.fail), tmp_path / "log"
    for _ in range(5):
        files.write(str(path), b"12345678")
    assert path.stat().st_size == 16
