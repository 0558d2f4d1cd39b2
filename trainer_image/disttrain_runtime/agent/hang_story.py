"""What is told about a hung rank: one line for a condition, the stack for status, all stacks for a file. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from disttrain_contract.exits import from_signal
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import MAX_TRACEBACK, Failure
from disttrain_contract.stall import Stall

_KILLED = from_signal(9)
_FRAMES = (
    re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$'),
    re.compile(r"^    (?P<name>\S+) \((?P<file>.*):(?P<line>\d+)\)$"),
)
"""As faulthandler writes one, and as py-spy does; the innermost comes first."""


def failure(rank: int, local_rank: int, stall: Stall, stack: str) -> Failure:
    """The cause, as the operator and people get it. `stack`: what the rank wrote."""
    frames = main_frames(stack)
    return Failure(
        rank=rank,
        local_rank=local_rank,
        exit_code=_KILLED,
        failure_class=FailureClass.HANG,
        message=_message(stall, frames),
        traceback="\n".join(frames)[-MAX_TRACEBACK:],
        step=stall.step,
        stall=stall,
    )


def main_frames(stack: str) -> list[str]:
    """Of the main thread, which is the one that a signal meets: the innermost last, as in a traceback."""
    frames: list[str] = []
    inside = False
    for line in stack.splitlines():
        if not line.startswith(" "):
            inside = line.startswith("Current thread") or '"MainThread"' in line
        elif inside:
            frames.append(line)
    return frames[::-1]


def whole(stacks: Mapping[int, str], culprit: int, line: str) -> str:
    """The file: why it was written, then every local rank's stacks, the culprit's first."""
    order = sorted(stacks, key=lambda rank: (rank != culprit, rank))
    parts = [f"rank {culprit}: {line}"] + [f"---- rank {rank}\n{stacks[rank].rstrip()}" for rank in order]
    return "\n\n".join(parts) + "\n"


def _message(stall: Stall, frames: list[str]) -> str:
    after = f"hung after step {stall.step}"
    if stall.stopped:
        return f"{after}: stopped (state T) for {stall.seconds:.1f} s; somebody sent it SIGSTOP"
    where = _place(frames)
    if stall.waits:
        return f"{after}: it waited {stall.seconds:.0f} s for other ranks in its {stall.phase.word} phase{where}"
    return (
        f"{after}: no sign of life for {stall.seconds:.1f} s in its {stall.phase.word} phase{where}; "
        "if that may take so long, set spec.recovery.hangTimeoutSeconds"
    )


def _place(frames: list[str]) -> str:
    found = next((m for pattern in _FRAMES if frames and (m := pattern.match(frames[-1]))), None)
    return f", in {found['name']} ({PurePath(found['file']).name}:{found['line']})" if found else ""
