"""The demo's last page: what was trained, what was lost, where things are, what to type next."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from dev.demo.story import Outcome
from disttrain.sdk import Job

EXPECTED_ACCURACY = 0.95
"""The example reaches 0.97 and more; a broken recovery or data order does not reach this."""


def report(outcome: Outcome, namespace: str) -> bool:
    """Print it; whether everything is as it should be."""
    console, job = Console(), outcome.job
    if job is None or not job.succeeded:
        console.print(f"\nThe job did not succeed: {_why(outcome)}", markup=False)
        return False
    accuracy = _accuracy(job)
    table = Table(title="Report", show_header=False)
    for name, value in _rows(outcome, job, accuracy):
        table.add_row(name, value)
    console.print(table)
    console.print(_next(job, namespace), markup=False)
    if outcome.killed is None:
        console.print("The job ended before a worker could be killed: the demo proves nothing", markup=False)
    elif not _recovered(job):
        console.print("No recovery from the death of the worker is on record: the demo proves nothing", markup=False)
    return accuracy is not None and accuracy >= EXPECTED_ACCURACY and outcome.killed is not None and _recovered(job)


def _why(outcome: Outcome) -> str:
    if outcome.job is None:
        return "it is gone"
    failed = outcome.job.condition("Failed")
    return outcome.hopeless or (failed.message if failed is not None else f"it is {outcome.job.state}")


def _accuracy(job: Job) -> float | None:
    progress = job.status.progress
    return (progress.metrics or {}).get("accuracy") if progress is not None else None


def _recovered(job: Job) -> bool:
    recovery = job.status.recovery
    return (
        recovery is not None
        and recovery.count >= 1
        and recovery.last is not None
        and recovery.last.restored_step is not None
    )


def _rows(outcome: Outcome, job: Job, accuracy: float | None) -> list[tuple[str, str]]:
    status = job.status
    last = status.recovery.last if status.recovery is not None else None
    saved = status.checkpoint.last_committed if status.checkpoint is not None else None
    rows = [
        ("accuracy", f"{accuracy:.4f} (expected at least {EXPECTED_ACCURACY})" if accuracy is not None else "unknown"),
        ("steps", str(status.progress.step if status.progress is not None else 0)),
        ("training time", f"{outcome.seconds:.0f} s from kubectl apply"),
        ("killed", f"{outcome.killed} at step {outcome.killed_at_step}"),
    ]
    if last is not None:
        rows += [
            ("restored from", f"step {last.restored_step} ({last.source})"),
            ("lost steps", f"{last.lost_steps} (run again)"),
            (
                "kill to next new step",
                f"{last.recover_seconds} s (operator), {outcome.resumed_seconds or 0:.1f} s (seen from here)",
            ),
        ]
    if saved is not None:
        rows += [
            ("checkpoint", f"step {saved.step}, {saved.digest[:19]}…"),
            ("where", f"claim {job.name}-checkpoints: {saved.path}"),
        ]
        rows += [
            (
                "logs",
                f"claim {job.name}-checkpoints: {str(saved.path).split('/checkpoints/step')[0]}/logs, and disttrain logs",
            )
        ]
    return rows


def _next(job: Job, namespace: str) -> str:
    return "\n".join(
        [
            "\nWhat to type next:",
            "  eval $(.venv/bin/python -m dev.cluster env); export PATH=$PWD/.venv/bin:$PATH",
            f"  kubectl get dtj -n {namespace} -o wide",
            f"  disttrain describe {job.name} -n {namespace}",
            f"  disttrain logs {job.name} -n {namespace} --rank 0",
            "  disttrain explain -f examples/text/job.yaml",
            "  make cluster-down",
        ]
    )
