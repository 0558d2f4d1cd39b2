"""The program as a whole: quick to start, one sentence an error, a frozen surface."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Cli
from tests.sdk.conftest import job
from tests.sdk.fake_api import JOBS, FakeApi

from disttrain.cli import main, session

COMMANDS = (
    "submit",
    "follow",
    "list",
    "get",
    "describe",
    "logs",
    "explain",
    "suspend",
    "resume",
    "delete",
    "wait",
    "drill",
    "nodes",
    "tune",
)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from disttrain.cli.main import run; run(['--help']); "
        "print([m for m in ('torch', 'kopf', 'kubernetes', 'pydantic', 'rich', 'yaml', 'aiohttp') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"


def test_the_commands_are_these(cli: Cli) -> None:
    said = cli("--help").out
    listed = [
        line.split()[0] for line in said.split("Commands:")[1].split("Exit codes")[0].splitlines() if line.strip()
    ]
    assert tuple(listed) == COMMANDS
    assert cli().out == said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_fits(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    assert all(len(line) <= 80 for line in done.out.splitlines())


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "explain"])
def test_the_standard_flags_are_everywhere(cli: Cli, command: str) -> None:
    said = cli(command, "--help").out
    assert all(flag in said for flag in ("--namespace", "--context", "--kubeconfig"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["submt"], "error: No such command 'submt'. Did you mean 'submit'?"),
        (["logs"], "error: Missing argument 'JOB'.\n  → disttrain logs --help"),
        (["submit"], "error: Missing option '--filename' / '-f'."),
        (["list", "--nonsense"], "error: No such option: --nonsense"),
        (["list", "-o", "xml"], "error: Invalid value for '--output' / '-o'"),
        (["submit", "-f", "/absent"], "error: cannot read /absent: No such file or directory"),
        (["list", "--context", "nonsense"], "error: no usable kubeconfig"),
    ],
)
def test_wrong_usage_exits_2_with_one_sentence(cli: Cli, args: list[str], says: str) -> None:
    done = cli(*args)
    assert done.code == 2
    assert says in done.err


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.startswith("disttrain ")


def test_no_api_server_is_one_sentence(api: FakeApi, cli: Cli) -> None:
    api.stop()
    done = cli("list")
    assert done.code == 2
    assert done.err.startswith(f"error: the API server at {api.url} does not answer")


def test_no_operator_says_how_to_install_it(api: FakeApi, cli: Cli) -> None:
    api.installed = False
    assert "→ install the operator: helm install" in cli("list").err


def test_a_defect_of_ours_is_named_as_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "client", lambda *args: 1 / 0)
    done = cli("list")
    assert (done.code, "ZeroDivisionError" in done.err, "this is a defect of disttrain" in done.err) == (70, True, True)
    monkeypatch.setenv(main.DEBUG, "1")
    with pytest.raises(ZeroDivisionError):
        cli("list")


@pytest.mark.parametrize(("command", "reader", "read"), [("list -o json", "head -1", "{\n"), ("--help", "true", "")])
def test_a_closed_pipe_is_no_error(api: FakeApi, tmp_path: Path, command: str, reader: str, read: str) -> None:
    """Seen at the last flush, or in the middle of the command."""
    for n in range(200):
        api.put(JOBS, job(f"job-{n}"))
    environment = os.environ | {"KUBECONFIG": str(api.kubeconfig(tmp_path / "config"))}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m disttrain.cli.main {command} | {reader}"],
        capture_output=True, text=True, check=False, timeout=60, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, read, "")


def test_both_scripts_are_installed() -> None:
    for name in ("disttrain", "kubectl-disttrain"):
        script = Path(sys.executable).with_name(name)
        assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.startswith(
            "disttrain "
        )
