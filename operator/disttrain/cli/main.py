"""The entry point: commands, and errors as one sentence each."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from disttrain.cli import control, describe, drill, explain, listing, logs, nodes, session, submit, tune
from disttrain.cli.exits import Exit

if TYPE_CHECKING:
    from disttrain.sdk.errors import Invalid

DEBUG = "DISTTRAIN_DEBUG"
"""Set: errors are shown with their tracebacks."""

app = typer.Typer(
    name="disttrain",
    help="Train with PyTorch on Kubernetes; keep training when workers die.",
    epilog="Exit codes: 0 succeeded, 1 failed, 2 refused, 124 timeout, 130 interrupted (the job goes on).",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's would cost more than all the rest of the start
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("submit")(submit.submit)
app.command("follow")(submit.follow)
app.command("list")(listing.list_jobs)
app.command("get")(listing.get)
app.command("describe")(describe.describe)
app.command("logs")(logs.logs)
app.command("explain")(explain.explain)
app.command("suspend")(control.suspend)
app.command("resume")(control.resume)
app.command("delete")(control.delete)
app.command("wait")(control.wait)
app.command("drill")(drill.drill)
app.command("nodes")(nodes.nodes)
app.command("tune")(tune.tune)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    """Train with PyTorch on Kubernetes; keep training when workers die."""
    if version:
        from importlib.metadata import version as of

        print(f"disttrain {of('disttrain')}")
        raise typer.Exit


def main() -> None:
    """For the console scripts `disttrain` and `kubectl-disttrain`."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """One command; its exit code."""
    try:
        args = args or ["--help"]
        code = typer.main.get_command(app).main(args=args, prog_name=session.prog(), standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except BrokenPipeError:  # `disttrain logs | head`, seen at the last flush
        return _nobody_reads()
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return _nobody_reads()  # seen inside the command: typer makes it an exit code of 1
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except Exception as problem:
        if os.environ.get(DEBUG):
            raise
        return _tell(problem)


def _nobody_reads() -> int:
    """Who read our output has enough: that is no error, and what is still to be flushed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.SUCCEEDED


def _tell(problem: Exception) -> int:
    from disttrain.sdk import errors

    if isinstance(problem, errors.DisttrainError):
        lines = _fields(problem) if isinstance(problem, errors.Invalid) else []
        _print(f"error: {problem}", *lines, hint=problem.hint)
        return Exit.TIMEOUT if isinstance(problem, errors.TimedOut) else Exit.REFUSED
    if hasattr(problem, "format_message"):  # click's usage errors, which typer keeps to itself
        context = getattr(problem, "ctx", None)
        path = context.command_path if context is not None else session.prog()
        _print(f"error: {problem.format_message()}", hint=f"{path} --help")
        return Exit.REFUSED
    _print(f"error: {type(problem).__name__}: {problem}", hint=f"this is a defect of disttrain; {DEBUG}=1 shows where")
    return Exit.DEFECT


def _fields(problem: Invalid) -> list[str]:
    from disttrain.sdk.check import hinted

    return [f"  {error.field or 'the job'}: {error.message}" for error in map(hinted, problem.fields)]


def _print(*lines: str, hint: str) -> None:
    from disttrain.sdk.visible import visible  # an answer of the API server may quote what somebody else has written

    console = session.err()
    for line in lines:
        console.print(visible(line), soft_wrap=True, style="red" if line is lines[0] else "")
    if hint:
        console.print(f"  → {visible(hint)}", soft_wrap=True, style="dim")


if __name__ == "__main__":
    main()
