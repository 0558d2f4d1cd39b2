"""One digest for everything an image is made from: equal digest, nothing to build."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dev.cluster.images.dockerfile import inputs

DOCKERFILE = "Dockerfile"
# What .dockerignore leaves out below the copied folders.
IGNORED = frozenset({"__pycache__"})


def digest(repository: Path, target: str, arguments: Mapping[str, str]) -> str:
    """The digest of the Dockerfile, of every file that reaches the target, and of the build arguments."""
    dockerfile = (repository / DOCKERFILE).read_bytes()
    whole = hashlib.sha256(dockerfile)
    for name, value in sorted(arguments.items()):
        whole.update(f"{name}={value}\0".encode())
    for path in files(repository, inputs(dockerfile.decode(), target)):
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
        whole.update(f"{path.relative_to(repository)}\0{executable}\0".encode())
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def files(repository: Path, sources: Iterable[str]) -> Iterator[Path]:
    """Every file at or below the sources, in a fixed order; a source that is missing is an error of the Dockerfile."""
    for source in sources:
        start = repository / source
        if start.is_file():
            yield start
            continue
        if not start.is_dir():
            raise FileNotFoundError(f"the Dockerfile copies {source}, which is not there")
        yield from (
            path
            for path in sorted(start.rglob("*"))
            if path.is_file() and path.suffix != ".pyc" and not IGNORED.intersection(path.parts)
        )
