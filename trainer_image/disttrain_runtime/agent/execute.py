"""Start a rank as a program of its own: fork, exec. The way of every `command`, and the one that always works."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from disttrain_contract import env
from disttrain_runtime.agent import kernel
from disttrain_runtime.agent.launch import RankSpec


@dataclass(frozen=True, slots=True)
class Ends:
    """A rank's ends of its two pipes and of its socket. They stay the caller's, who closes them."""

    out: int
    err: int
    report: int


Launch = Callable[[RankSpec, Ends], int]
"""Starts a rank that leads a session of its own, is our child, and dies with us. Returns its process number. Raises
OSError or ValueError when its program cannot be executed."""


def execute(spec: RankSpec, ends: Ends) -> int:
    """A `Launch`."""
    process = subprocess.Popen(
        spec.argv,
        env={**spec.environment, env.REPORT_FD: str(ends.report)},
        stdin=subprocess.DEVNULL,
        stdout=ends.out,
        stderr=ends.err,
        pass_fds=(ends.report,),
        start_new_session=True,
        preexec_fn=partial(kernel.die_with_parent, os.getpid()),
    )
    return disowned(process)


def disowned(process: subprocess.Popen[bytes]) -> int:
    """Its number. The supervisor reaps every child; a Popen that thinks its process alive would look for it, too."""
    process.returncode = 0
    return process.pid
