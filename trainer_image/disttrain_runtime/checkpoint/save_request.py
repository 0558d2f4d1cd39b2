"""What a rank asks of its writer process, and how it travels: plain values as JSON, memory as descriptors.

A frame is the lengths of what follows (with it come the descriptors of the blocks), the JSON, and the heads of all files.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttrain_runtime.checkpoint.block import Block
from disttrain_runtime.checkpoint.fence import Fence, Holder
from disttrain_runtime.checkpoint.manifest import Fingerprint, ParameterShape, Sampling
from disttrain_runtime.checkpoint.snapshot import File, Snapshot
from disttrain_runtime.checkpoint.writer import Facts

_LENGTHS = struct.Struct("<QQ")
_MAX_BLOCKS = 253
"""The kernel's limit of descriptors in one message; a block is a top-level part of the state, and there are about three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRequest:
    """One save, complete in itself: the writer process remembers nothing."""

    job_dir: Path
    holder: Holder
    claimant: str
    keep: int
    rejected: tuple[int, ...]
    best: tuple[int, ...] = ()
    """Steps with the best evaluations: the first that is on the volume stays."""
    began: float
    """By the monotonic clock, which all processes of a machine share."""
    facts: Facts
    snapshot: Snapshot

    @property
    def fence(self) -> Fence:
        """The fence from the asking rank's point of view."""
        return Fence(self.job_dir, self.holder, self.claimant)

    def send(self, line: socket.socket) -> None:
        """Raises OSError when nobody is there to read it."""
        files = self.snapshot.files
        body = json.dumps(_plain(self), separators=(",", ":")).encode()
        heads = b"".join(file.head for file in files.values())
        blocks = [file.body.fd for file in files.values() if file.body is not None]
        socket.send_fds(line, [_LENGTHS.pack(len(body), len(heads))], blocks)
        line.sendall(body)
        line.sendall(heads)


def receive(line: socket.socket) -> SaveRequest | None:
    """The next request; None when the rank is gone."""
    lengths, fds, _, _ = socket.recv_fds(line, _LENGTHS.size, _MAX_BLOCKS)
    if not lengths:
        return None
    lengths += _read(line, _LENGTHS.size - len(lengths))
    body, heads = (_read(line, length) for length in _LENGTHS.unpack(lengths))
    return _build(json.loads(body), heads, fds)


def _read(line: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        got = line.recv_into(view)
        if not got:
            raise EOFError("the rank ended in the middle of a request")
        view = view[got:]
    return bytes(data)


def _plain(request: SaveRequest) -> dict[str, Any]:
    facts, sampling, print_ = request.facts, request.facts.sampling, request.facts.fingerprint
    return {
        "job_dir": str(request.job_dir),
        "holder": [request.holder.job_uid, request.holder.incarnation],
        "claimant": request.claimant,
        "keep": request.keep,
        "rejected": request.rejected,
        "best": request.best,
        "began": request.began,
        "facts": [facts.job, facts.step, facts.world_size, facts.epoch, facts.position],
        "sampling": [sampling.seed, sampling.randomness, sampling.samples, sampling.batch_size],
        "parameters": [(p.name, p.dtype, p.shape) for p in print_.parameters],
        "optimizer": print_.optimizer,
        "schedule": print_.schedule,
        "files": [(name, len(f.head), len(f.body.map) if f.body else 0) for name, f in request.snapshot.files.items()],
    }


def _build(plain: Mapping[str, Any], heads: bytes, fds: list[int]) -> SaveRequest:
    files: dict[str, File] = {}
    at, blocks = 0, iter(fds)
    for name, head, body in plain["files"]:
        files[name] = File(heads[at : at + head], Block.attach(next(blocks), body) if body else None)
        at += head
    job, step, world_size, epoch, position = plain["facts"]
    seed, randomness, samples, batch_size = plain["sampling"]
    return SaveRequest(
        job_dir=Path(plain["job_dir"]),
        holder=Holder(*plain["holder"]),
        claimant=plain["claimant"],
        keep=plain["keep"],
        rejected=tuple(plain["rejected"]),
        best=tuple(plain["best"]),
        began=plain["began"],
        facts=Facts(
            job=job,
            step=step,
            world_size=world_size,
            epoch=epoch,
            position=position,
            sampling=Sampling(seed=seed, randomness=randomness, samples=samples, batch_size=batch_size),
            fingerprint=Fingerprint(
                parameters=tuple(
                    ParameterShape(name, dtype, tuple(shape)) for name, dtype, shape in plain["parameters"]
                ),
                optimizer=plain["optimizer"],
                schedule=plain["schedule"],
            ),
        ),
        snapshot=Snapshot(files),
    )
