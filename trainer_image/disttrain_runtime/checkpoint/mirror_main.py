"""The mirror process: copies committed checkpoints to the second tier, and back when the volume has none.

Neither training nor the writer waits for it: it reads what is already committed. It knows no torch; the libraries of the
store (and their event loops, threads and tens of megabytes) live here and die with it. The rank's end is `mirror`.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from disttrain_runtime.agent import kernel
from disttrain_runtime.checkpoint.fence import Fence
from disttrain_runtime.checkpoint.manifest import RejectedError
from disttrain_runtime.checkpoint.mirror_request import MirrorAnswer, MirrorRequest, decode_request
from disttrain_runtime.checkpoint.remote import Remote
from disttrain_runtime.checkpoint.remote_store import StoreError, connect
from disttrain_runtime.checkpoint.volume import Volume
from disttrain_runtime.checkpoint.writer import explain, reason
from disttrain_runtime.errors import FencedError

NICENESS = 15
"""Below the writer: the volume comes first."""
FENCED = "RemoteFenced"


def main(fd: int, rank: int) -> None:
    """Serve one rank until it ends, however it ends."""
    kernel.die_with_parent(rank)
    kernel.call_self(["disttrain-checkpoint-mirror"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the rank
    os.nice(NICENESS)
    line = socket.socket(fileno=fd)
    with line.makefile("rb") as requests:
        for text in requests:
            line.sendall(attempt(decode_request(text)).encode())


def attempt(request: MirrorRequest) -> MirrorAnswer:
    """One request, whatever becomes of it."""
    step, volume = request.step or 0, Volume(Path(request.job_dir))
    fence = Fence(volume.job_dir, request.holder, request.claimant)
    try:
        remote = Remote(connect(request.url), fence)
        if request.expected is None:
            return MirrorAnswer(step=step, digest=remote.copy(volume, step, request.keep))
        got = remote.fetch(volume, request.expected, request.avoid)
        return MirrorAnswer(name=got.name, step=got.step, digest=got.digest, skipped=got.skipped, foreign=got.foreign)
    except StoreError as error:
        return MirrorAnswer(step=step, reason=error.reason, message=str(error))
    except FencedError as error:
        return MirrorAnswer(step=step, reason=FENCED, message=str(error))
    except RejectedError as error:
        return MirrorAnswer(step=step, reason="NotVerified", message=f"it did not verify on its way: {error}")
    except OSError as error:
        return MirrorAnswer(step=step, reason=reason(error), message=explain(error, volume))
