"""A wrong entry point is named, with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_runtime.entrypoint import build_task, load_builder, parse_arguments
from disttrain_runtime.errors import EntrypointError, TaskError, judge

pytestmark = pytest.mark.torch


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module, made on the spot."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / f"users_{tmp_path.name}.py"
    path.write_text("")
    return path


def test_arguments_take_the_types_of_the_signature() -> None:
    task = build_task("support.gloo_tasks:build", ["--steps", "7", "--batch-size=4", "--norm=false"])
    assert (task.steps, task.batch_size, task.total_steps) == (7, 4, 7)


@pytest.mark.parametrize(
    ("entrypoint", "complaint"),
    [
        ("support.gloo_tasks", "must read `package.module:function`"),
        (":build", "must read"),
        ("no_such_package.task:build", "there is no module 'no_such_package'; put its folder on PYTHONPATH"),
        ("support.no_such:build", "there is no module 'support.no_such'"),
        ("support.gloo_tasks:biuld", "has no attribute 'biuld'; functions in it: .*build_ledger"),
        ("support.gloo_tasks:__name__", "is a str; it must be a function"),
        ("support.gloo_tasks:build_elsewhere", "returned dict, not a Task"),
    ],
)
def test_a_wrong_entry_point_is_explained_and_never_retried(entrypoint: str, complaint: str) -> None:
    with pytest.raises(EntrypointError, match=complaint) as caught:
        build_task(entrypoint, [])
    verdict = judge(caught.value)
    assert (verdict.failure_class, verdict.exit_code) == ("EntrypointError", 64)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--steps", "many"], "steps"),
        (["--no_such", "1"], "no_such"),
        (["--width=1.5"], "width"),
        (["stray"], "stray"),
    ],
)
def test_bad_arguments_name_the_argument_and_show_the_usage(arguments: list[str], complaint: str) -> None:
    with pytest.raises(EntrypointError, match=rf"(?s)bad arguments: .*{complaint}.*usage: support.gloo_tasks:build"):
        build_task("support.gloo_tasks:build", arguments)


def test_asking_for_help_gives_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EntrypointError, match="--help was asked for, so nothing was trained"):
        build_task("support.gloo_tasks:build", ["--help"])
    assert "--batch_size" in capsys.readouterr().out


def test_a_missing_dependency_is_not_mistaken_for_a_missing_module(module: Path) -> None:
    module.write_text("import no_such_library\n")
    with pytest.raises(EntrypointError, match="needs module 'no_such_library', which is not installed in the image"):
        load_builder(f"{module.stem}:build")


def test_a_module_that_raises_while_imported_is_named(module: Path) -> None:
    module.write_text("1 / 0\n")
    with pytest.raises(EntrypointError, match="importing .* raised ZeroDivisionError"):
        load_builder(f"{module.stem}:build")


def test_an_argument_without_a_type_is_refused(module: Path) -> None:
    module.write_text("def build(lr):\n    pass\n")
    with pytest.raises(EntrypointError, match="lr"):
        parse_arguments("m:build", load_builder(f"{module.stem}:build"), [])


def test_what_the_users_own_code_raises_while_building_is_a_code_error() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        build_task("support.gloo_tasks:build_without_data", [])
    assert judge(caught.value).failure_class == "CodeError"


def test_a_task_that_contradicts_itself_can_never_run() -> None:
    with pytest.raises(TaskError, match="batch_size must be a whole number of at least 1, got 0"):
        build_task("support.gloo_tasks:build", ["--batch_size=0"])
