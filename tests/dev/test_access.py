"""What `dev.cluster env` prints is read by shells, and by our own commands as a shell would read it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dev.access import after
from dev.cluster import cli

AWKWARD = "/tmp/a b/$(touch owned)/it's;x"


def test_a_shell_and_our_own_commands_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", AWKWARD)
    monkeypatch.setenv("DISTTRAIN_CLUSTER", "given")
    monkeypatch.setenv("DISTTRAIN_CACHE", "/tmp/c d")
    cli.env()
    printed = capsys.readouterr().out
    shell = subprocess.run(
        ["sh", "-c", f'{printed}\nprintf "%s\\n%s" "$KUBECONFIG" "$PATH"'],
        env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shell == f"{AWKWARD}\n/tmp/c d/bin:/usr/bin:/bin"
    ours = after(printed, {"PATH": "/usr/bin:/bin"})
    assert f"{ours['KUBECONFIG']}\n{ours['PATH']}" == shell
    assert not list(tmp_path.iterdir()), "nothing of it was run"
