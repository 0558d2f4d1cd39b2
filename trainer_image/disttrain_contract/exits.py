"""Exit codes of the agent and what they tell the operator."""

from enum import IntEnum


class Exit(IntEnum):
    """Codes that the agent itself chooses; a failed rank's own code is passed on unchanged."""

    DONE = 0
    USER_ERROR = 64
    """The job cannot work as written (the entry point does not import): restarting cannot help (EX_USAGE)."""
    AGENT_ERROR = 70
    """A defect of ours (EX_SOFTWARE)."""
    STORAGE_ERROR = 74
    """The checkpoint volume cannot be used at start (EX_IOERR)."""
    STOPPED = 143
    """Told to stop and did (128 + SIGTERM)."""


def from_signal(signal: int) -> int:
    """The shell's way to say that a process died of a signal."""
    return 128 + signal


def describe(exit_code: int) -> str:
    """`exit code 137 (SIGKILL)`: what a person wants to read."""
    if exit_code == Exit.USER_ERROR:
        return "exit code 64 (the job cannot run as written)"
    if exit_code == Exit.STORAGE_ERROR:
        return "exit code 74 (the checkpoint volume cannot be used)"
    if 128 < exit_code < 128 + 65:
        import signal

        try:
            return f"exit code {exit_code} ({signal.Signals(exit_code - 128).name})"
        except ValueError:
            return f"exit code {exit_code} (signal {exit_code - 128})"
    return f"exit code {exit_code}"
