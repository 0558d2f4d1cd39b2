"""`disttrain suspend`, `resume`, `delete`, `wait`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from disttrain.cli import exits, options, session
from disttrain.cli.exits import Exit

if TYPE_CHECKING:
    from disttrain.sdk import Job


class For(StrEnum):
    """What `wait` waits for."""

    FINISHED = "finished"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DELETE = "delete"


ForWhat = Annotated[
    For,
    typer.Option(
        "--for", metavar="finished|running|suspended|delete", help="finished: the exit code is the job's result."
    ),
]


def suspend(
    name: options.Name,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Pause a job; its workers save a checkpoint first."""
    client = session.client(kubeconfig, context, namespace)
    job = client.suspend(name)
    if job.finished:
        session.err().print(f"job {name} has {job.state.lower()} already: there is nothing to suspend")
        return Exit.REFUSED
    if wait and client.wait(name, until=lambda j: j.suspended or j.finished, timeout=timeout) is None:
        return _gone(name)
    session.out().print(f"disttrainjob {name} {'suspended' if wait else 'is being suspended'}")
    return Exit.SUCCEEDED


def resume(
    name: options.Name,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Let a suspended job go on from its checkpoint."""
    client = session.client(kubeconfig, context, namespace)
    client.resume(name)
    if wait and client.wait(name, until=_is_running, timeout=timeout) is None:
        return _gone(name)
    session.out().print(f"disttrainjob {name} {'resumed' if wait else 'is being resumed'}")
    return Exit.SUCCEEDED


def delete(
    name: options.Name,
    wait: options.Wait = False,
    timeout: options.Timeout = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Delete a job and its pods; its checkpoints stay."""
    from disttrain.sdk.client import claim_name

    client = session.client(kubeconfig, context, namespace)
    job = client.delete(name, wait=wait, timeout=timeout)
    session.out().print(f"disttrainjob {name} {'deleted' if wait else 'is being deleted'}")
    if claim := claim_name(job):
        session.err().print(
            f"its checkpoints stay in claim {claim}, a job of the same name goes on from them; "
            f"to remove them: kubectl delete pvc {claim} -n {job.namespace}"
        )
    return Exit.SUCCEEDED


def wait(
    name: options.Name,
    what: ForWhat = For.FINISHED,
    timeout: options.Timeout = None,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Wait for a job, without output."""
    from disttrain.sdk.errors import NotFound

    client = session.client(kubeconfig, context, namespace)
    try:
        job = client.wait(name, until=_HOLDS[what], timeout=timeout)
    except NotFound:
        if what is For.DELETE:
            return Exit.SUCCEEDED
        raise
    except KeyboardInterrupt:
        session.err().print("the job goes on")
        return Exit.INTERRUPTED
    if what is For.DELETE:
        return Exit.SUCCEEDED
    if job is None:
        return _gone(name)
    if what is For.FINISHED:
        return exits.of(job)
    return Exit.FAILED if job.finished and not _reached(what, job) else Exit.SUCCEEDED


def _is_running(job: Job) -> bool:
    return job.holds("Running") or job.finished


def _reached(what: For, job: Job) -> bool:
    """A job that succeeded must have run."""
    return what is For.RUNNING and job.succeeded


_HOLDS: dict[For, Callable[[Job], bool]] = {
    For.FINISHED: lambda job: job.finished,
    For.RUNNING: _is_running,
    For.SUSPENDED: lambda job: job.suspended or job.finished,
    For.DELETE: lambda job: False,
}


def _gone(name: str) -> int:
    session.err().print(f"job {name} was deleted meanwhile")
    return Exit.FAILED
