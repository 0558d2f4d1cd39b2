"""Why did a rank die? Turns an exit status and what is known around it into one `Failure`. Pure."""

from __future__ import annotations

import errno
import re
import signal
from dataclasses import dataclass, replace

from disttrain_contract.exits import Exit, describe, from_signal
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Failure
from disttrain_runtime.agent.last_traceback import LastTraceback, find
from disttrain_runtime.errors import FAILED

_NETWORK = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|DistNetworkError|ncclRemoteError|ncclSystemError"
    r"|remote process exited|NCCL (watchdog|communicator was aborted)|Socket Timeout|DistStoreError"
    r"|gloo.*(Timed out|timeout|unreachable|refused)|The client socket has (failed|timed out)"
)
"""What torch, gloo and NCCL say when *another* rank died: such a rank is a victim, not a cause."""
_MEMORY = re.compile(
    r"^(MemoryError\b|torch\.(cuda\.)?OutOfMemoryError\b|.*DefaultCPUAllocator: can't allocate memory)"
)
_STORAGE = re.compile(r"\[Errno (28|30|122|5)\]")
"""No space left, read-only, quota exceeded, I/O error."""
_STOP_ERRORS = re.compile(r"^(KeyboardInterrupt|SystemExit)\b|SignalException")
"""How Python programs die of a SIGTERM that they turned into an exception."""
_NO_PROGRAM = re.compile(
    r"(can't open file .*|: No module named \S+|Error while finding module specification .*"
    r"|can't find '__main__' module .*)$"
)
"""What the Python interpreter itself says, without a traceback, when there is nothing to run."""
_SUDDEN = (-signal.SIGKILL, -signal.SIGTERM)
"""Nobody prints anything when these arrive: what stands in stderr is older and has nothing to do with it."""
_USED_UP = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What is not there now may be there again: no reason to give the job up."""
_SHELL_NOT_EXECUTABLE, _SHELL_NOT_FOUND = 126, 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """All that is known about a rank whose process is gone."""

    rank: int
    local_rank: int
    status: int
    """As `os.waitstatus_to_exitcode` says it: negative for a signal."""
    stderr: str = ""
    """The end of it."""
    said: Failure | None = None
    """What the rank itself reported before it died."""
    oom_kills: int = 0
    """Processes of this container that the kernel killed for memory since the rank was started."""
    memory_limit: int | None = None
    signalled: bool = False
    """We had told it to end."""
    step: int | None = None


def diagnose(death: Death) -> Failure | None:
    """The failure, or None for a good end: exit 0, or nothing but the end that we asked for."""
    if death.status == 0 and death.said is None:
        return None
    if death.said is not None:
        return _with_step(death, _own_words(death, death.said))
    sudden = death.status in _SUDDEN and not death.signalled
    trace = None if sudden else find(death.stderr)
    if death.signalled and (trace is None or _STOP_ERRORS.search(trace.message)):
        return None
    return _with_step(death, _judge(death, trace))


def cannot_start(rank: int, local_rank: int, program: str, error: OSError | ValueError) -> Failure:
    """The program of a rank could not even be executed."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.errno in _USED_UP:
        code, kind = FAILED, FailureClass.CODE
        advice = "the pod has used up what it may have of processes, descriptors or memory"
    else:
        code, kind, advice = int(Exit.USER_ERROR), FailureClass.ENTRYPOINT, "check spec.command and the image"
    return Failure(
        rank=rank,
        local_rank=local_rank,
        exit_code=code,
        failure_class=kind,
        message=f"cannot start {program!r}: {why}; {advice}",
    )


def _own_words(death: Death, said: Failure) -> Failure:
    """The rank knows best what happened, but not who it is nor that the kernel was involved."""
    code = _exit_code(death.status) if death.status not in (0, *_SUDDEN) else said.exit_code
    said = replace(said, rank=death.rank, local_rank=death.local_rank, exit_code=code if 0 < code < 256 else 1)
    return _out_of_memory(death, said.exit_code, said.traceback) if death.oom_kills else said


def _judge(death: Death, trace: LastTraceback | None) -> Failure:
    code = _exit_code(death.status)
    text = trace.text if trace else ""
    if death.oom_kills:
        return _out_of_memory(death, code, text)
    if trace is None and (problem := _not_a_program(death, code)):
        return _failure(death, int(Exit.USER_ERROR), FailureClass.ENTRYPOINT, problem)
    last = trace.message if trace else "" if death.status in _SUDDEN else _last_line(death.stderr)
    kind = _class_of(death, code, last)
    message = f"{describe(code)}: {last}" if last and (trace is None or death.status < 0) else last
    return _failure(death, code, kind, message or describe(code), text)


def _class_of(death: Death, code: int, last: str) -> FailureClass:
    if code == Exit.STORAGE_ERROR or _STORAGE.search(last):
        return FailureClass.STORAGE
    if code == Exit.USER_ERROR:
        return FailureClass.ENTRYPOINT
    if _MEMORY.search(last):
        return FailureClass.OOM
    if _NETWORK.search(last):
        return FailureClass.NETWORK
    return FailureClass.SIGNAL if death.status < 0 else FailureClass.CODE


def _out_of_memory(death: Death, code: int, traceback: str) -> Failure:
    limit = f" at the container's limit of {_size(death.memory_limit)}" if death.memory_limit else ""
    message = f"out of memory: killed by the kernel{limit}; raise resources.limits.memory or use less"
    return _failure(death, code, FailureClass.OOM, message, traceback)


def _not_a_program(death: Death, code: int) -> str | None:
    last = _last_line(death.stderr)
    if code in (_SHELL_NOT_EXECUTABLE, _SHELL_NOT_FOUND) or (code in (1, 2) and _NO_PROGRAM.search(last)):
        return f"{last or describe(code)}; check spec.command, spec.args and the image"
    return None


def _failure(death: Death, code: int, kind: FailureClass, message: str, traceback: str = "") -> Failure:
    return Failure(
        rank=death.rank,
        local_rank=death.local_rank,
        exit_code=code,
        failure_class=kind,
        message=message,
        traceback=traceback,
    )


def _with_step(death: Death, failure: Failure) -> Failure:
    return failure if failure.step is not None else replace(failure, step=death.step)


def _exit_code(status: int) -> int:
    return from_signal(-status) if status < 0 else status


def _last_line(stderr: str) -> str:
    return next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")


def _size(count: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} B"
