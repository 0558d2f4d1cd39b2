"""What the cluster can answer. The class is the retry policy.

SpecError (manifests.errors)   the user edits the job: never retried, shown in its conditions
ClusterError                   the cluster recovers: retried with back-off
├── NotFound                   success for a delete
├── AlreadyExists              success for a create, if the object is ours
├── Conflict                   somebody wrote in between (or the UID is another's): look again
├── Refused                    the API server says no to what was asked: a person must act
└── Unanswered                 no reply; a write may have been applied, which the next pass will see
"""

from __future__ import annotations


class ClusterError(Exception):
    """The API server did not do what was asked."""

    def __init__(self, message: str, *, code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        """Seconds, when the API server named them."""


class NotFound(ClusterError):
    """404."""


class AlreadyExists(ClusterError):
    """409 on a create."""


class Conflict(ClusterError):
    """409 on a write: a stale resourceVersion, or a UID precondition that does not hold."""


class Refused(ClusterError):
    """400, 403, 405, 422: invalid, forbidden, over quota, not admitted."""


class Unanswered(ClusterError):
    """Connection lost or timed out."""


_BY_CODE: dict[int, type[ClusterError]] = {
    400: Refused,
    403: Refused,
    404: NotFound,
    405: Refused,
    409: Conflict,
    422: Refused,
}


def of_reply(code: int, reason: str, message: str, retry_after: float | None, what: str) -> ClusterError:
    """The error that a reply stands for. `reason` is the machine-readable word of the Status object."""
    kind = AlreadyExists if reason == "AlreadyExists" else _BY_CODE.get(code, ClusterError)
    return kind(f"{what}: {message or reason or code}", code=code, retry_after=retry_after)
