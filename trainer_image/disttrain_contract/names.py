"""Deterministic names: asking twice for the same child is the same request."""

MAX_JOB_NAME = 52
"""A pod is `{job}-{index}` and its host name has at most 63 characters; the rest is room for `-checkpoints`."""

CONTAINER = "trainer"
TOKEN_AUDIENCE = "disttrain.dev/operator"
STREAM_PATH = "/v1/stream"


def pod_name(job: str, worker_index: int) -> str:
    """`mnist-2`: worker 2 of job mnist."""
    return f"{job}-{worker_index}"


def service_name(job: str) -> str:
    """The headless Service that gives the pods their DNS names."""
    return job


def claim_name(job: str) -> str:
    """The claim made for a job that asks for a size instead of naming a claim."""
    return f"{job}-checkpoints"
