"""The file that remembers what was spent: `privacy.json` in the job's directory, with the secret that all noise comes from.

It is written before a step begins, so it never says too little, whoever dies when. Two writers (one of them a leftover
behind a partition) lose nothing of each other: each adds its spans to what is there, under a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from disttrain_contract.paths import PRIVACY
from disttrain_runtime.checkpoint.durable import replace_file
from disttrain_runtime.errors import EntrypointError, StorageError
from disttrain_runtime.privacy import SECRET_BYTES, Span, merged, spans_from_json, spans_to_json


@dataclass(frozen=True, slots=True)
class Book:
    """What the file says."""

    secret: bytes
    spans: tuple[Span, ...] = ()

    def encode(self) -> bytes:
        """As it is in the file, and on the way to other ranks."""
        return json.dumps({"secret": self.secret.hex(), "spans": spans_to_json(self.spans)}).encode()


def decode(data: bytes) -> Book:
    """The inverse. Raises ValueError, KeyError or TypeError."""
    raw = json.loads(data)
    secret = bytes.fromhex(raw["secret"])
    if len(secret) != SECRET_BYTES:
        raise ValueError("the secret has a wrong length")
    return Book(secret, spans_from_json(raw["spans"]))


class Ledger:
    """Rank 0's hold of the file."""

    def __init__(self, job_dir: Path) -> None:
        self._path, self._lock = job_dir / PRIVACY, job_dir / f"{PRIVACY}.lock"

    def open(self, step: int) -> Book:
        """What was spent so far; a new secret when nothing was. `step`: how far the model has been trained."""
        with self._locked():
            book = self._read()
            if book is not None:
                return book
            if step > 0:
                raise EntrypointError(
                    f"the model was trained for {step} steps, and there is no {self._path} to say what they have spent: "
                    "a run with strategy.privacy cannot go on from one without. Give the job another name, or put the file back"
                )
            book = Book(secrets.token_bytes(SECRET_BYTES))
            self._write(book)
            return book

    def add(self, span: Span) -> None:
        """Durable when this returns."""
        with self._locked():
            book = self._read()
            if book is None:
                raise StorageError(f"{self._path} has vanished: without it nobody knows what was spent")
            self._write(Book(book.secret, merged([*book.spans, span])))

    def _read(self) -> Book | None:
        try:
            return decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self._path} cannot be read ({error}): put a good copy of it back") from error

    def _write(self, book: Book) -> None:
        replace_file(self._path, book.encode(), mode=0o600)  # who knows the secret can take the noise away

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be used ({error.strerror or error}): check the volume") from error
