"""Exit codes: the job's result, for scripts and CI."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from disttrain.sdk.job import Job


class Exit(IntEnum):
    """What `$?` says."""

    SUCCEEDED = 0
    FAILED = 1
    """The job failed, or was deleted while it was followed."""
    REFUSED = 2
    """Wrong usage, a wrong file, no cluster, or the API server said no."""
    DEFECT = 70
    """A defect of disttrain (EX_SOFTWARE)."""
    TIMEOUT = 124
    """It did not happen in time, as timeout(1) says it."""
    INTERRUPTED = 130
    """Ctrl-C. The job goes on."""


def of(job: Job | None) -> Exit:
    """The result of a finished job; None: it is gone."""
    return Exit.SUCCEEDED if job is not None and job.succeeded else Exit.FAILED
