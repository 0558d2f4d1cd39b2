"""The agent's last words: what the kubelet puts into the pod's status even if no operator was listening."""

from __future__ import annotations

import os
import traceback
from pathlib import PurePosixPath

from disttrain_contract.exits import Exit
from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import AgentState, Failure, Report, encode_within
from disttrain_contract.paths import TERMINATION_LOG_BYTES


def write_last_words(report: Report, where: PurePosixPath) -> None:
    """Best effort: the kubelet makes the file; where there is none, nobody wants to know."""
    data = encode_within(report, TERMINATION_LOG_BYTES).encode()
    try:
        fd = os.open(where, os.O_WRONLY | os.O_TRUNC)  # never creates it
    except OSError:
        return
    try:
        os.write(fd, data)
    except OSError:
        pass
    finally:
        os.close(fd)


def misconfigured(error: Exception) -> Report:
    """The pod was not given what an agent needs: nothing that a restart could mend."""
    message = f"the worker pod is misconfigured: {error}; operator and trainer image must be of the same version"
    return _broken(Exit.USER_ERROR, FailureClass.ENTRYPOINT, message, "")


def defect(error: BaseException, incarnation: int) -> Report:
    """The agent itself failed."""
    message = f"the agent failed, a defect of disttrain: {type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    return _broken(Exit.AGENT_ERROR, FailureClass.CODE, message, text, incarnation)


def _broken(code: Exit, kind: FailureClass, message: str, trace: str, incarnation: int = 0) -> Report:
    failure = Failure(rank=0, local_rank=0, exit_code=int(code), failure_class=kind, message=message, traceback=trace)
    return Report(incarnation=incarnation, state=AgentState.FAILED, failure=failure)
