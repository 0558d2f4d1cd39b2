"""What a rank asks of its mirror process and what it hears: one JSON object a line."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass

from disttrain_contract.decode import build, parse_object
from disttrain_runtime.checkpoint.fence import Holder
from disttrain_runtime.checkpoint.manifest import Expectation


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRequest:
    """Complete in itself: the process remembers nothing. Either a step to copy, or what a fetched one must fit."""

    url: str
    job_dir: str
    holder: Holder
    claimant: str
    keep: int = 1
    step: int | None = None
    expected: Expectation | None = None
    avoid: tuple[str, ...] = ()
    """Copies that were fetched before and turned out to be of no use."""

    def send(self, line: socket.socket) -> None:
        """Raises OSError when nobody is there to read it."""
        line.sendall(json.dumps(asdict(self)).encode() + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorAnswer:
    """How it went. With a reason: not at all."""

    name: str = ""
    """Of the copy that was fetched; empty: there is none."""
    step: int = 0
    digest: str = ""
    skipped: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    reason: str = ""
    message: str = ""

    def encode(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def decode_request(line: bytes) -> MirrorRequest:
    """Raises ValueError."""
    return build(MirrorRequest, parse_object(line))


def decode_answer(line: bytes) -> MirrorAnswer:
    """Raises ValueError."""
    return build(MirrorAnswer, parse_object(line))
