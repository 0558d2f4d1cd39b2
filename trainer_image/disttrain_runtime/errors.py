"""What a rank can die of, and who is to blame. Standard library only: the rule is a function of the exception."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import ClassVar

from disttrain_contract.exits import Exit
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import MAX_TRACEBACK

FAILED = 1
"""What Python itself exits with after an uncaught exception."""


class WorkerError(Exception):
    """A failure that we recognise. Its message says what is wrong, where, and how to mend it."""

    failure_class: ClassVar[FailureClass] = FailureClass.CODE
    exit_code: ClassVar[int] = FAILED


class EntrypointError(WorkerError):
    """The job cannot run as written: the user must change it, a restart cannot help."""

    failure_class = FailureClass.ENTRYPOINT
    exit_code = Exit.USER_ERROR


class TaskError(EntrypointError):
    """`build` made a task that contradicts itself."""


class ForeignCheckpointError(EntrypointError):
    """The volume holds intact checkpoints, but of another task: going on would overwrite somebody's work."""


class StorageError(WorkerError):
    """The checkpoint volume cannot be used, so the job would run unprotected."""

    failure_class = FailureClass.STORAGE
    exit_code = Exit.STORAGE_ERROR


class SharedMemoryError(WorkerError):
    """/dev/shm is full, which by itself reads like a full disk."""


class FencedError(WorkerError):
    """A newer incarnation owns the job: this process is a leftover and must end. Nobody's fault."""

    failure_class = FailureClass.NETWORK


class PeerGoneError(WorkerError):
    """The group cannot form: somebody who belongs to it is not there."""

    failure_class = FailureClass.NETWORK


class TransferError(WorkerError):
    """State from another rank did not arrive whole. The group forms anew and tries again."""

    failure_class = FailureClass.NETWORK


class PeerStoppedError(WorkerError):
    """Another rank was told to stop; the group ended together with it, after a checkpoint."""

    failure_class = FailureClass.NETWORK
    exit_code = Exit.STOPPED


class NonFiniteError(WorkerError):
    """NaN or infinity where a number should be: nothing that follows from it is worth anything."""

    failure_class = FailureClass.NON_FINITE


class DivergedError(WorkerError):
    """This replica is not what the others are."""

    failure_class = FailureClass.DIVERGENCE


@dataclass(frozen=True, slots=True)
class Verdict:
    """An exception, judged: what goes into the failure message, and the code to exit with."""

    failure_class: FailureClass
    exit_code: int
    message: str
    traceback: str
    """Empty when it would only show our own code: the message says it all."""


VICTIM_TYPES = frozenset({"DistNetworkError", "DistBackendError", "DistStoreError"})
"""torch.distributed raises these when a peer, the store or the network is gone."""

VICTIM_TEXTS = ("/gloo/transport/", "gloo::", "Gloo connectFullMesh failed", "[c10d]", "NCCL error", "ncclRemoteError")
"""How the same thing reads when it arrives as a bare RuntimeError: gloo prints its source path."""

OUT_OF_MEMORY = frozenset({"MemoryError", "OutOfMemoryError"})


def judge(error: BaseException) -> Verdict:
    """Whose fault it is. A rank that fails only because a peer died is a victim (`Network`), never the culprit."""
    failure_class, exit_code = _blame(error)
    if isinstance(error, WorkerError) and not _in_users_code(error):
        return Verdict(failure_class, exit_code, str(error), "")
    last_line = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    message = str(error) if isinstance(error, WorkerError) else last_line
    return Verdict(failure_class, exit_code, message, "".join(traceback.format_exception(error))[-MAX_TRACEBACK:])


def is_victim(error: BaseException) -> bool:
    """True when the group broke under this rank: some peer is the culprit. torch's pipelines wrap what they stumble over."""
    if not isinstance(error, WorkerError) and error.__cause__ is not None and is_victim(error.__cause__):
        return True
    if isinstance(error, (PeerGoneError, TransferError, PeerStoppedError)):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & VICTIM_TYPES) or (
        isinstance(error, RuntimeError) and any(t in str(error) for t in VICTIM_TEXTS)
    )


def _in_users_code(error: WorkerError) -> bool:
    return isinstance(error, TaskError) or error.__cause__ is not None


def _blame(error: BaseException) -> tuple[FailureClass, int]:
    if isinstance(error, WorkerError):
        return error.failure_class, int(error.exit_code)
    if isinstance(error, SystemExit):
        return FailureClass.CODE, error.code if isinstance(error.code, int) else FAILED
    if {kind.__name__ for kind in type(error).__mro__} & OUT_OF_MEMORY:
        return FailureClass.OOM, FAILED
    return (FailureClass.NETWORK if is_victim(error) else FailureClass.CODE), FAILED
