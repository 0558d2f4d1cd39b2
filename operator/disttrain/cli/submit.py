"""`disttrain submit` and `disttrain follow`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from disttrain.cli import options, session
from disttrain.cli.exits import Exit

if TYPE_CHECKING:
    from disttrain.sdk import Client, Job, Submitted

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Ask the API server whether it would take the job; change nothing.")
]
Follow = Annotated[
    bool | None,
    typer.Option("--follow/--no-follow", help="Stay until the job ends. Default: on a terminal.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force-conflicts", help="Take over fields that somebody else has set.")]


def submit(
    filename: options.File,
    follow: Follow = None,
    dry_run: DryRun = False,
    force_conflicts: Force = False,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Create a job from a file, or change the one of that name.

    Followed to its end, the exit code is the job's result: 0 succeeded, 1 failed, 2 refused, 130 interrupted (the job goes on).
    """
    from disttrain.sdk import manifest
    from disttrain.sdk.errors import BadInput

    job = manifest.read(filename)
    own = (job.get("metadata") or {}).get("namespace") if isinstance(job.get("metadata"), dict) else None
    if namespace and own and own != namespace:
        raise BadInput(
            f"{filename} says namespace {own!r}, the command line says {namespace!r}", hint="leave one of them out"
        )
    client = session.client(kubeconfig, context, namespace or own)
    done = client.submit(job, dry_run=dry_run, force_conflicts=force_conflicts)
    _say(done, dry_run)
    if dry_run:
        return Exit.SUCCEEDED
    if follow is None:
        follow = session.out().is_terminal
    if follow:
        return watch(client, done.job.name)
    if done.created:
        session.err().print(f"follow it: {session.prog()} follow {done.job.name}{_flag(done.job)}")
    return Exit.SUCCEEDED


def follow(
    name: options.Name,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> int:
    """Watch a job to its end; exit with its result."""
    return watch(session.client(kubeconfig, context, namespace), name)


def watch(client: Client, name: str) -> int:
    """Show the job until it has finished or is gone."""
    from disttrain.cli.follow import FollowView, summary
    from disttrain.sdk.updates import JobGone

    console = session.out()
    with FollowView(console) as view:
        try:
            with closing(client.watch(name)) as updates:
                for update in updates:
                    view.show(update)
                    if isinstance(update, JobGone):
                        return Exit.FAILED
                    if view.job is not None and view.job.finished:
                        break
        except KeyboardInterrupt:
            return _interrupted(view.job, name)
    summary(view.job, console, session.prog())
    return Exit.SUCCEEDED if view.job is not None and view.job.succeeded else Exit.FAILED


def _interrupted(job: Job | None, name: str) -> int:
    again = f"{session.prog()} follow {name}{_flag(job) if job is not None else ''}"
    session.err().print(f"the job goes on; watch it again: {again}")
    return Exit.INTERRUPTED


def _flag(job: Job) -> str:
    return f" -n {job.namespace}" if job.namespace not in ("", "default") else ""


def _say(done: Submitted, dry_run: bool) -> None:
    what = "created" if done.created else "changed" if done.changed else "unchanged"
    job, console = done.job, session.err()
    console.print(f"disttrainjob {job.name} {what}" + (" (dry run)" if dry_run else ""))
    if job.finished and not done.changed:
        console.print(
            f"it has {job.state.lower()} already; to run it again: {session.prog()} delete {job.name} --wait, then submit it"
        )
