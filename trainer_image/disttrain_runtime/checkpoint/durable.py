"""The few file operations that a commit is made of. All of them raise OSError; none of them is ever tried twice.

After a failed fsync the kernel may have dropped the pages and report success the next time, so the caller must count
what was written as lost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

CHUNK = 4 * 1024 * 1024
"""Bytes a call: write and sha256 let other threads run meanwhile, and training is one of them."""


def write_file(path: Path, parts: Iterable[bytes | memoryview], mode: int = 0o644) -> tuple[int, str]:
    """Create the file, write, flush to the disk. Gives size and sha256 of what was handed to the kernel."""
    digest, size = hashlib.sha256(), 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), CHUNK):
                chunk = view[start : start + CHUNK]
                digest.update(chunk)
                _write_all(fd, chunk)
            size += len(view)
        os.fsync(fd)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)  # may itself raise: network file systems report a full disk here
    return size, digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A file with these contents or the old ones, whatever happens."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    write_file(draft, [data], mode)
    draft.replace(path)
    sync_directory(path.parent)


def _write_all(fd: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(fd, chunk) :]
