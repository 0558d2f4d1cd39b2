"""What `dev.cluster env` prints is read by shells, and by our own commands as a shell would read it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from dev.access import after, image
from dev.cluster import cli

OURS = "docker.io/disttrain/trainer:dev"
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


def environment_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **variables: str
) -> dict[str, str]:
    for name in ("KUBECONFIG", "DISTTRAIN_CLUSTER", "DISTTRAIN_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cli.env()
    return after(capsys.readouterr().out, os.environ)


def test_a_given_cluster_takes_images_from_the_registry_that_is_named_and_from_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTTRAIN_TRAINER_IMAGE", OURS)  # left over from another cluster in the same shell
    given = environment_with(monkeypatch, capsys, KUBECONFIG="/theirs")
    with pytest.raises(SystemExit, match="set DISTTRAIN_REGISTRY to it"):
        image("trainer", given)
    named = environment_with(monkeypatch, capsys, KUBECONFIG="/theirs", DISTTRAIN_REGISTRY="r.example.com:5000/team")
    assert image("trainer", named) == "r.example.com:5000/team/disttrain-trainer:dev"
    assert image("operator", named) == "r.example.com:5000/team/disttrain-operator:dev"


def test_a_cluster_of_ours_has_the_images_loaded_under_our_own_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = environment_with(monkeypatch, capsys, DISTTRAIN_CLUSTER="local", DISTTRAIN_REGISTRY="r.example.com")
    assert image("trainer", ours) == OURS
