"""docs/cli.md says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.conftest import Cli
from tests.cli.test_main import COMMANDS

from disttrain.cli.exits import Exit

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cli.md").read_text()


def test_every_command_is_in_the_table() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+) (?:JOB|-f|\[)", row)}
    assert named == set(COMMANDS)


def test_every_option_of_the_table_exists(cli: Cli) -> None:
    for row in (line for line in TEXT.splitlines() if re.match(r"\| `\w+ ", line)):
        cell = row.split(" | ")[0]
        for name in re.findall(r"`(\w+) ", cell):
            said = cli(name, "--help").out
            for option in re.findall(r"(?<!\w)--?[a-z][a-z-]*", cell):
                assert option in said, f"{name} {option}"


def test_the_exit_codes_are_those_of_the_program() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, flags=re.M)} == set(Exit)


def test_the_explanation_shown_is_the_one_that_is_given(cli: Cli, tmp_path: Path) -> None:
    job, shown = re.findall(r"```yaml\n(.*?)```\n```\n\$ disttrain explain -f job.yaml\n(.*?)```", TEXT, flags=re.S)[0]
    (tmp_path / "job.yaml").write_text(job)
    assert cli("explain", "-f", str(tmp_path / "job.yaml")).out == shown, "update docs/cli.md"
