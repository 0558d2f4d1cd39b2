"""The SDK for scripts, notebooks and the CLI.

from disttrain.sdk import Client
client = Client.connect()
client.submit(job)
finished = client.wait("mnist", until=lambda job: job.finished)
"""

from disttrain.sdk.client import Client, Submitted
from disttrain.sdk.errors import (
    BadInput,
    Conflict,
    DisttrainError,
    FieldError,
    Invalid,
    NoCluster,
    NotAllowed,
    NotFound,
    Refused,
    TimedOut,
    Unreachable,
)
from disttrain.sdk.job import Happening, Job, Worker
from disttrain.sdk.log_lines import LogLine
from disttrain.sdk.updates import Happened, JobGone, JobSeen, Tick, Update

__all__ = [
    "BadInput", "Client", "Conflict", "DisttrainError", "FieldError", "Happened", "Happening", "Invalid", "Job", "JobGone", "JobSeen",
    "LogLine", "NoCluster", "NotAllowed", "NotFound", "Refused", "Submitted", "Tick", "TimedOut", "Unreachable", "Update", "Worker",
]  # fmt: skip
