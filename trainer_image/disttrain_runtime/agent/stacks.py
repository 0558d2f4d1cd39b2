"""Take the stacks of ranks: their own word if they can still give it, else py-spy's, else the kernel's."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from disttrain_runtime.agent import main_thread
from disttrain_runtime.agent.board import Board
from disttrain_runtime.agent.execute import disowned
from disttrain_runtime.pulse import STACK_SIGNAL

ANSWER_SECONDS = 0.5
"""The C handler runs within milliseconds of the signal, whoever holds the interpreter's lock."""
_POLL_SECONDS = 0.02
SPY_SECONDS = 3.0
"""py-spy stops the process, reads its memory and the symbols of every library in it."""


class Subject(Protocol):
    """A rank, as far as its stacks go."""

    @property
    def pid(self) -> int: ...
    @property
    def board(self) -> Board: ...


async def take(ranks: Iterable[Subject]) -> dict[int, str]:
    """By process number, the stacks of all; never empty, never longer than a few seconds."""
    ranks = list(ranks)
    return dict(zip([r.pid for r in ranks], await asyncio.gather(*map(_of, ranks)), strict=True))


async def _of(rank: Subject) -> str:
    seen, beat = main_thread.look(rank.pid), rank.board.beat()
    if seen is None:
        return "the process is gone"
    if beat is not None and beat.writes_stacks and seen.state not in "TtZ":
        rank.board.clear_stacks()
        with suppress(ProcessLookupError):
            os.kill(rank.pid, STACK_SIGNAL)
        if text := await _written(rank.board):
            return text
    return await _spied(rank.pid, stopped=seen.state == "T") or _kernels(rank.pid)


async def _written(board: Board) -> str:
    """Complete when it grows no more."""
    text = ""
    for _ in range(round(ANSWER_SECONDS / _POLL_SECONDS)):
        await asyncio.sleep(_POLL_SECONDS)
        before, text = text, board.stacks()
        if text and text == before:
            break
    return text


async def _spied(pid: int, *, stopped: bool) -> str:
    """Where the image has py-spy, and the pod may trace (SYS_PTRACE)."""
    if (program := shutil.which("py-spy")) is None:
        return ""
    # A process that runs must be paused for it; one that is stopped could not be paused.
    options = ["--nonblocking"] if stopped else []
    spy = subprocess.Popen(
        [program, "dump", *options, "--pid", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    disowned(spy)
    assert spy.stdout is not None
    reading = asyncio.ensure_future(asyncio.to_thread(spy.stdout.read))
    done, _ = await asyncio.wait([reading], timeout=SPY_SECONDS)
    if not done:
        with suppress(ProcessLookupError):
            os.kill(spy.pid, signal.SIGKILL)
    return (await reading).decode(errors="replace")


def _kernels(pid: int) -> str:
    seen = main_thread.look(pid)
    if seen is None:
        return "the process is gone"
    if seen.state == "T":
        return "stopped (state T): it cannot answer"
    where = main_thread.waiting_in(pid)
    return f"no Python stack: state {seen.state}" + (f", in the kernel's {where}" if where else "")
