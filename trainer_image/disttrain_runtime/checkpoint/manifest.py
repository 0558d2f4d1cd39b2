"""The manifest: what a checkpoint is, file by file, and what it fits. Pure values; it exists last, so it is the commit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1
MAX_BYTES = 16 * 1024 * 1024
"""Of a manifest file: 100,000 parameters take about 8 MB. More is not ours."""
_FILE_NAME = re.compile(r"[a-z][a-z0-9_]*\.(safetensors|json)")
"""No separators and no leading dot: a manifest cannot point out of its own folder."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RejectedError(Exception):
    """This checkpoint must not be loaded; the message is one sentence that says why."""


class ForeignError(RejectedError):
    """It is intact, but it does not belong to this task."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ParameterShape:
    """One tensor of the model."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What must be equal for state to be loadable: the model's tensors and the kinds of what steps them."""

    parameters: tuple[ParameterShape, ...]
    optimizer: str
    schedule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What must be equal for the sample order to go on exactly."""

    seed: int
    randomness: str
    samples: int
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that is known about a checkpoint without opening its tensors."""

    job: str
    job_uid: str
    step: int
    """Finished steps; the next one to run has this number, counted from 0."""
    incarnation: int
    world_size: int
    """Of the group that wrote it; it loads into any other."""
    epoch: int
    position: int
    """Samples of that epoch already seen."""
    sampling: Sampling
    fingerprint: Fingerprint
    files: tuple[FileEntry, ...]
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What this run can load."""

    job: str
    sampling: Sampling
    fingerprint: Fingerprint


def encode(manifest: Manifest) -> tuple[bytes, str]:
    """The manifest file, which ends with its own digest, and that digest."""
    body = asdict(manifest)
    digest = _digest(body)
    return json.dumps(body | {"digest": digest}, indent=1).encode(), digest


def decode(data: bytes) -> tuple[Manifest, str]:
    """The inverse, checked: raises RejectedError for anything that `encode` would not have written."""
    try:
        body = json.loads(data)
        if not isinstance(body, dict):
            raise RejectedError("its manifest is not a JSON object")
        digest = body.pop("digest", None)
        if digest != _digest(body):
            raise RejectedError("its manifest does not match its own digest")
        if body.get("format") != FORMAT:
            raise ForeignError(f"it is written in format {body.get('format')}, this image reads {FORMAT}")
        manifest = _build(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RejectedError(f"its manifest cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    for entry in manifest.files:
        if not (_FILE_NAME.fullmatch(entry.name) and _SHA256.fullmatch(entry.sha256) and entry.bytes >= 0):
            raise RejectedError(f"its manifest names an impossible file {entry.name[:100]!r}")
    return manifest, digest


def check(manifest: Manifest, expected: Expectation, step: int) -> None:
    """Raise when it is another step's, another job's or another task's; the text says what differs and how to mend it."""
    if manifest.step != step:
        raise RejectedError(f"its manifest is of step {manifest.step}: the folder was renamed or copied")
    if manifest.job != expected.job:
        raise ForeignError(f"it belongs to job {manifest.job!r}")
    if difference := _difference(manifest.fingerprint, expected.fingerprint):
        raise ForeignError(f"it was written by another task: {difference}")
    theirs, ours = asdict(manifest.sampling), asdict(expected.sampling)
    changed = [f"{name} was {theirs[name]!r} and is {ours[name]!r}" for name in ours if theirs[name] != ours[name]]
    if changed:
        raise ForeignError(f"the order of samples could not go on exactly: {', '.join(changed)}")


def _difference(theirs: Fingerprint, ours: Fingerprint) -> str:
    """The first difference, in words; empty when equal."""
    had, has = ({p.name: p for p in f.parameters} for f in (theirs, ours))
    for name in sorted(had.keys() ^ has.keys()):
        return f"parameter {name} is only in {'the checkpoint' if name in had else 'the present model'}"
    for name, old in had.items():
        if old != has[name]:
            return f"parameter {name} was {_words(old)} and is {_words(has[name])}"
    for what in ("optimizer", "schedule"):
        before, now = getattr(theirs, what), getattr(ours, what)
        if before != now:
            return f"the {what} was {before or 'none'} and is {now or 'none'}"
    return ""


def _words(parameter: ParameterShape) -> str:
    return f"{parameter.dtype}{list(parameter.shape)}"


def _digest(body: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _build(body: dict[str, Any]) -> Manifest:
    print_ = body.pop("fingerprint")
    parameters = tuple(ParameterShape(p["name"], p["dtype"], tuple(p["shape"])) for p in print_.pop("parameters"))
    manifest = Manifest(
        fingerprint=Fingerprint(parameters=parameters, **print_),
        sampling=Sampling(**body.pop("sampling")),
        files=tuple(FileEntry(**entry) for entry in body.pop("files")),
        **body,
    )
    if not all(type(n) is int and n >= 0 for n in _numbers(manifest)):
        raise ValueError("a number in it is not a whole number")
    if not all(isinstance(text, str) for text in _texts(manifest)):
        raise ValueError("a text in it is not a text")
    if len({entry.name for entry in manifest.files}) != len(manifest.files):
        raise ValueError("a file is named twice")
    return manifest


def _numbers(manifest: Manifest) -> Iterator[object]:
    yield from (manifest.step, manifest.incarnation, manifest.world_size, manifest.epoch, manifest.position)
    yield from (manifest.sampling.samples, manifest.sampling.batch_size)
    yield from (entry.bytes for entry in manifest.files)
    yield from (size for parameter in manifest.fingerprint.parameters for size in parameter.shape)


def _texts(manifest: Manifest) -> Iterator[object]:
    yield from (manifest.job, manifest.job_uid, manifest.sampling.randomness)
    yield from (manifest.fingerprint.optimizer, manifest.fingerprint.schedule)
    for entry in manifest.files:
        yield from (entry.name, entry.sha256)
    for parameter in manifest.fingerprint.parameters:
        yield from (parameter.name, parameter.dtype)
