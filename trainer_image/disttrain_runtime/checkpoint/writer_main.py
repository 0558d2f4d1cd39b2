"""The writer process: takes snapshots out of shared memory to the disk, beside training instead of in its way.

A process of its own has its own interpreter lock, and hashing, writing and flushing never hold up a step. It knows no
torch: it starts in a tenth of a second and costs twenty megabytes. It keeps nothing between two requests, so when it dies
the next one takes over; the rank's end of the line is `writer_process`.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from disttrain_contract.messages import Checkpoint, CheckpointProblem, RankEvent, encode_rank_message
from disttrain_runtime.agent import kernel
from disttrain_runtime.checkpoint.fence import Fence
from disttrain_runtime.checkpoint.save_request import SaveRequest, receive
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import explain, reason, retire, write
from disttrain_runtime.errors import FencedError

NICENESS = 10
"""Where cores are few, a step of training goes before a checkpoint. A rank that waits for one leaves its core free."""
FENCED = "Fenced"
"""The reason of the one problem that ends the run."""


def main(fd: int, rank: int) -> None:
    """Serve one rank until it ends, however it ends."""
    kernel.die_with_parent(rank)
    kernel.call_self(["disttrain-checkpoint-writer"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the rank, which will want a last checkpoint
    os.nice(NICENESS)
    line = socket.socket(fileno=fd)
    swept = False
    while (request := receive(line)) is not None:
        event = _attempt(request, sweep=not swept)
        swept = True
        kind = RankEvent.CHECKPOINT if isinstance(event, Checkpoint) else RankEvent.CHECKPOINT_PROBLEM
        for file in request.snapshot.files.values():
            if file.body is not None:
                file.body.close()
        line.sendall(encode_rank_message(kind, event))


def _attempt(request: SaveRequest, *, sweep: bool) -> Checkpoint | CheckpointProblem:
    volume, fence, step = Volume(request.job_dir), request.fence, request.facts.step
    try:
        if sweep:
            _sweep(volume, fence)
        return _save(request, volume, fence)
    except FencedError as error:
        return CheckpointProblem(step=step, reason=FENCED, message=str(error))
    except OSError as error:
        return CheckpointProblem(step=step, reason=reason(error), message=explain(error, volume))


def _sweep(volume: Volume, fence: Fence) -> None:
    """What dead writers left half-done goes before the first save, under the fence: a newer owner's draft is not ours."""
    with fence.held():
        volume.sweep()


def _save(request: SaveRequest, volume: Volume, fence: Fence) -> Checkpoint:
    committed = write(volume, fence, request.snapshot, request.facts)
    retire(volume, fence, committed.step, request.rejected, request.keep, request.best)
    return Checkpoint(
        step=committed.step,
        digest=committed.digest,
        path=str(committed.path),
        incarnation=request.holder.incarnation,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        bytes=committed.bytes,
        seconds=round(time.monotonic() - request.began, 3),
    )
