"""From `package.module:build` and the job's arguments to a checked task. Every mistake is named with its remedy."""

from __future__ import annotations

import importlib
import inspect
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import jsonargparse

from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.task import Task

Builder = Callable[..., Task]


def build_task(entrypoint: str, arguments: Sequence[str]) -> Task:
    """Import, parse, build, check."""
    builder = load_builder(entrypoint)
    keywords = parse_arguments(entrypoint, builder, arguments)
    task = builder(**keywords)
    if not isinstance(task, Task):
        raise EntrypointError(
            f"entrypoint {entrypoint!r} returned {type(task).__name__}, not a Task; "
            "end it with `return Task(model=…, train_data=…, …)` (from disttrain_runtime.task import Task)"
        )
    return task


def load_builder(entrypoint: str) -> Builder:
    """The function that the entry point names."""
    module_name, separator, attribute = entrypoint.partition(":")
    if not (module_name and separator and attribute):
        raise EntrypointError(f"entrypoint {entrypoint!r} must read `package.module:function`")
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        raise EntrypointError(_not_found(entrypoint, module_name, error)) from None
    except AttributeError as error:
        raise EntrypointError(f"entrypoint {entrypoint!r}: {error}; {_offer(module_name)}") from None
    except Exception as error:  # whatever a module raises while it is imported
        raise EntrypointError(f"entrypoint {entrypoint!r}: importing {module_name} raised {_line(error)}") from error
    if not callable(found):
        raise EntrypointError(
            f"entrypoint {entrypoint!r} is a {type(found).__name__}; it must be a function that returns a Task"
        )
    builder: Builder = found
    return builder


def parse_arguments(entrypoint: str, builder: Builder, arguments: Sequence[str]) -> dict[str, Any]:
    """The job's arguments, by the types of the builder's signature."""
    parser = jsonargparse.ArgumentParser(prog=entrypoint, exit_on_error=False, description=inspect.getdoc(builder))
    said = io.StringIO()
    try:
        parser.add_function_arguments(builder, fail_untyped=True, sub_configs=True)
        with redirect_stdout(said), redirect_stderr(said):
            parsed = parser.parse_args([_underscored(a) for a in arguments])
        ready: dict[str, Any] = parser.instantiate(parsed).as_dict()
    except SystemExit:
        sys.stdout.write(said.getvalue())
        raise EntrypointError(f"entrypoint {entrypoint!r}: --help was asked for, so nothing was trained") from None
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        expects = " ".join(parser.format_usage().split())
        raise EntrypointError(
            f"entrypoint {entrypoint!r}: bad arguments: {' '.join(str(error).split())} ({expects})"
        ) from None
    return ready


def _underscored(argument: str) -> str:
    """`--batch-size=8` is as good as `--batch_size=8`."""
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def _not_found(entrypoint: str, module_name: str, error: ModuleNotFoundError) -> str:
    missing = error.name or module_name
    if module_name == missing or module_name.startswith(missing + "."):
        return (
            f"entrypoint {entrypoint!r}: there is no module {missing!r}; "
            f"put its folder on PYTHONPATH in the image (now looking from {Path.cwd()})"
        )
    return f"entrypoint {entrypoint!r}: {module_name} needs module {missing!r}, which is not installed in the image"


def _offer(module_name: str) -> str:
    module = importlib.import_module(module_name)
    functions = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
    return f"functions in it: {', '.join(functions) or 'none'}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}"
