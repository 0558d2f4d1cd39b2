"""What can go wrong with a worker, named once: the class is in status, metrics and rules."""

from enum import StrEnum


class FailureClass(StrEnum):
    """Who or what is to blame. Decides whether the budget is charged and who must act."""

    CODE = "CodeError"
    """The user's program raised or exited non-zero."""
    ENTRYPOINT = "EntrypointError"
    """The user's program could not be started or imported: never retried."""
    OOM = "OutOfMemory"
    SIGNAL = "Signal"
    STORAGE = "Storage"
    HANG = "Hang"
    """A rank made no progress; it was killed."""
    NON_FINITE = "NonFinite"
    """The loss or the parameters became NaN or infinite."""
    DIVERGENCE = "Divergence"
    """A replica was not what the others were."""
    NETWORK = "Network"
    NODE = "Node"
    """The node is gone, or evicted or preempted the pod. Never charged."""
    POD = "PodLost"
    """The pod was deleted by somebody. Never charged."""
    IMAGE = "Image"
    """The image cannot be pulled or the container cannot be created."""


NEVER_CHARGED = frozenset({FailureClass.NODE, FailureClass.POD})
"""Not the job's fault: preemption and node loss do not use up the failure budget."""
