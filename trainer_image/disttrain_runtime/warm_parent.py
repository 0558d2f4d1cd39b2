"""The process that ranks are forked from: it has torch and this runtime imported, and does nothing else.

    python -m disttrain_runtime.warm_parent FD        started by the agent; see `agent/warm.py` for the other end

It imports, says that it is ready, and forks when asked. It stays fit for that: one thread, no CUDA, none of the user's
code. A rank is forked twice, so that it becomes the child of the agent (PID 1, or a subreaper), which reaps it like any
other. From its first own line on it lives as if `python -m disttrain_runtime.worker` had been executed.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from disttrain_contract import env
from disttrain_contract.drill import WARM_PARENT, process_name
from disttrain_runtime import blas_threads
from disttrain_runtime.agent import kernel
from disttrain_runtime.agent.fork_request import PRELOAD, ForkRequest, asked, wait_for_go

_ORPHANED_SECONDS = 0.0002
"""Between looks whether the process between has ended. It has nothing left to do but that."""
_REPORT_FD = 3
_HIGH = 64
"""Above every number that a rank's own descriptors get."""


def main(fd: int) -> None:
    """Never returns."""
    agent = os.getppid()
    kernel.name_self(WARM_PARENT)
    line = socket.socket(fileno=fd)
    program = preload(os.environ[PRELOAD].split(","))
    require_one_thread()
    line.sendall(b"ready")
    request = serve(line, agent)
    if request is None:  # the agent is gone, and nobody waits for destructors
        os._exit(0)
    argv, environment = request.read()
    take_over(request, environment)
    sys.orig_argv = argv
    kernel.call_self(argv)
    rank = environment.get("RANK")
    kernel.name_self(process_name(int(rank) if rank else None))
    run(program, argv)


def preload(names: list[str]) -> ModuleType:
    """Import all, return the first: the rank's program."""
    modules = [importlib.import_module(name) for name in names]
    gc.collect()
    gc.freeze()  # the collector writes into what it looks at, and a page that is written is shared no longer
    return modules[0]


def require_one_thread() -> None:
    """A fork takes one thread along, and every lock that another one holds stays locked for ever."""
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    if len(threads) != 1:
        raise SystemExit(f"cannot fork: the imports started {len(threads) - 1} threads ({', '.join(threads)})")


def serve(line: socket.socket, agent: int) -> ForkRequest | None:
    """Fork for every request. Returns in each new rank with its request, and in the parent with None, at the end."""
    while (request := asked(line)) is not None:
        require_one_thread()
        if child := os.fork():
            request.close()
            os.waitpid(child, 0)
            continue
        between = os.getpid()
        if os.fork():
            os._exit(0)
        belong(agent, between)
        if not wait_for_go(request):
            os._exit(128 + signal.SIGKILL)
        return request
    return None


def belong(agent: int, between: int) -> None:
    """In the new rank: be the agent's child and the leader of a session, and die with the agent."""
    while os.getppid() == between:
        time.sleep(_ORPHANED_SECONDS)
    os.setsid()
    kernel.die_with_parent(agent)


def take_over(request: ForkRequest, environment: Mapping[str, str]) -> None:
    """The rank's descriptors and environment; nothing of the parent's is kept."""
    out, err, report = (
        fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in (request.ends.out, request.ends.err, request.ends.report)
    )
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(report, _REPORT_FD)
    os.closerange(_REPORT_FD + 1, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment, **{env.REPORT_FD: str(_REPORT_FD)})
    blas_threads.restore(environment)


def run(program: ModuleType, argv: Sequence[str]) -> None:
    """What `python -m` would do with it. A program that stands for others gets the whole command line."""
    if list(argv[1:3]) == ["-m", program.__name__]:
        sys.modules["__main__"] = program
        argv = argv[3:]
        sys.argv = [program.__file__ or "", *argv]
    program.leave(program.main(argv, os.environ))


if __name__ == "__main__":
    main(int(sys.argv[1]))
