"""fsspec as the few operations that the second tier needs, with one kind of error that says who must act."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from disttrain_contract.remote import SCHEMES
from disttrain_runtime.checkpoint.manifest import RejectedError

BLOCK = 16 * 1024 * 1024
"""Bytes of a read ahead."""
PART = 64 * 1024 * 1024
"""Bytes of one part of an upload: object stores allow 10,000 parts, which makes 640 GB a file."""
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10, 60, 3
"""A store that is away is noticed within a minute, not within the quarter of an hour that is botocore's default."""
_S3 = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": ATTEMPTS}}
OPTIONS: dict[str, dict[str, Any]] = {
    "file": {"auto_mkdir": True},
    "s3": {"config_kwargs": _S3, "use_listings_cache": False},
}
"""Credentials are not among them: each library finds its own in the environment of the pod."""
_DENIED = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "CredentialRetrievalError"}
_AWAY = {
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "FSTimeoutError",
}
"""Errors that are not OSErrors, by the name of their class: the libraries are not imported for their sake."""


class StoreError(Exception):
    """The store cannot be used; `reason` is one CamelCase word, the message says how to mend it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def connect(url: str) -> Store:
    """Nothing is asked of the store yet. Raises StoreError when there is no library for it."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise StoreError(
            "RemoteUnsupported", f"checkpoint.remote begins with one of {', '.join(SCHEMES)}, not {scheme}"
        )
    with _told(url):
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(url, **OPTIONS.get(scheme, {}))
    return Store(fs, root, url)


class Store:
    """One folder of a file system. Paths are relative to it."""

    def __init__(self, fs: Any, root: str, url: str) -> None:
        self._fs, self._root, self._url = fs, root.rstrip("/"), url

    def folders(self, path: str) -> tuple[str, ...]:
        """Names of the folders in a folder; none when it does not exist."""
        with _told(self._url):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(path), detail=True)
            except FileNotFoundError:
                return ()
            return tuple(e["name"].rstrip("/").rpartition("/")[2] for e in found if e["type"] == "directory")

    def exists(self, path: str) -> bool:
        """A file of that name."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Bytes of a file; None when there is none."""
        with _told(self._url):
            try:
                found = self._fs.info(self._path(path))
            except FileNotFoundError:
                return None
            return int(found["size"]) if found["type"] == "file" else None

    def get(self, path: str, at_most: int) -> bytes | None:
        """A small file whole; None when there is none. What is larger than ours can be reads as empty."""
        size = self.size(path)
        if size is None:
            return None
        with _told(self._url):
            data: bytes = self._fs.cat_file(self._path(path)) if 0 < size <= at_most else b""
            return data

    def put(self, path: str, data: bytes) -> None:
        """A small file, in one request: object stores show it whole or not at all."""
        with _told(self._url):
            self._parents(path)
            self._fs.pipe_file(self._path(path), data)

    def read(self, path: str) -> Iterator[bytes]:
        """A large file, piece by piece; nothing when there is none, which no digest matches."""
        with _told(self._url):
            try:
                file = self._fs.open(self._path(path), "rb", block_size=BLOCK)
            except FileNotFoundError:
                return
            with file:
                while piece := file.read(BLOCK):
                    yield piece

    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        """A large file."""
        with _told(self._url):
            self._parents(path)
            with self._fs.open(self._path(path), "wb", block_size=PART) as file:
                for piece in pieces:
                    file.write(piece)

    def remove(self, path: str, first: str) -> None:
        """A folder; one of its files before all others, so that what is half removed is no checkpoint."""
        with _told(self._url):
            if self._fs.exists(f"{self._path(path)}/{first}"):
                self._fs.rm_file(f"{self._path(path)}/{first}")
            self._fs.rm(self._path(path), recursive=True)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _parents(self, path: str) -> None:
        """Only where folders are real; on an object store this could make a bucket."""
        if getattr(self._fs, "auto_mkdir", False):
            self._fs.makedirs(self._path(path).rpartition("/")[0], exist_ok=True)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Whatever a library raises, as one kind of error. Our own pass."""
    try:
        yield
    except (StoreError, RejectedError, GeneratorExit):
        raise
    except Exception as error:
        raise explained(error, url) from error


def explained(error: Exception, url: str) -> StoreError:
    """What is wrong with the store, and how to mend it."""
    kind, said = type(error).__name__, f"{type(error).__name__}: {str(error)[:300]}"
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ImportError):
        return StoreError("RemoteUnsupported", f"the image has no library for {url} ({said}): install it there")
    if isinstance(error, PermissionError) or kind in _DENIED:
        return StoreError(
            "RemoteDenied", f"{url} denies access ({said}): check the credentials in spec.env and their rights"
        )
    if isinstance(error, FileNotFoundError):
        return StoreError(
            "RemoteMissing", f"{url} does not exist ({said}): create the bucket or correct checkpoint.remote"
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StoreError("RemoteFull", f"{url} is full ({said}): make room or lower checkpoint.keep")
    if isinstance(error, ConnectionError | TimeoutError) or kind in _AWAY:
        return StoreError("RemoteUnreachable", f"{url} cannot be reached ({said}): check the endpoint and the network")
    return StoreError("RemoteFailed", f"{url} failed ({said}): check the storage behind it")
