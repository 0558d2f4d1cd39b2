"""Mount points and file names inside a worker pod and on the checkpoint volume."""

from pathlib import PurePosixPath

CHECKPOINT_MOUNT = PurePosixPath("/checkpoints")
TOKEN_DIR = PurePosixPath("/var/run/secrets/disttrain")
TOKEN_FILE = TOKEN_DIR / "token"
SCRATCH = PurePosixPath("/scratch")
"""An emptyDir: HOME, TMPDIR and caches, so that the root file system stays read-only."""
SHARED_MEMORY = PurePosixPath("/dev/shm")
TERMINATION_LOG = PurePosixPath("/dev/termination-log")
TERMINATION_LOG_BYTES = 4096
"""The kubelet keeps no more than this."""

FENCE = "fence.json"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
"""Loss and evaluations so far, one JSON object a line."""
TENSORBOARD = "tensorboard"
"""The same for TensorBoard."""
PRIVACY = "privacy.json"
"""What a private run has spent, and the secret that its noise comes from."""


def job_dir(mount: PurePosixPath, job: str) -> PurePosixPath:
    """All that a job keeps on the volume. A job of the same name finds it again."""
    return mount / job


def step_dir_name(step: int) -> str:
    """`step-00000010`; zero padded so that names sort like numbers."""
    return f"step-{step:08d}"


def log_file(job_directory: PurePosixPath, incarnation: int, rank: int) -> PurePosixPath:
    """Where the agent keeps a copy of what a rank printed."""
    return job_directory / LOGS / f"incarnation-{incarnation:04d}" / f"rank-{rank}.log"


def stacks_file(job_directory: PurePosixPath, incarnation: int) -> PurePosixPath:
    """Where an agent keeps the stacks of its ranks when one of them hangs."""
    return log_file(job_directory, incarnation, 0).with_name("stacks.txt")
