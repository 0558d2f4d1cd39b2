"""The CLI in this process, against the fake API server of tests/sdk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.sdk.fake_api import FakeApi

from disttrain.cli.main import run


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    server = FakeApi()
    yield server
    server.stop()


@pytest.fixture
def cli(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`cli("list", "-A")`"""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.argv", ["disttrain"])

    def call(*args: str) -> Done:
        capfd.readouterr()
        code = run(list(args))
        said = capfd.readouterr()
        return Done(code, said.out, said.err)

    return call


@pytest.fixture
def file(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """A job file."""

    def write(raw: dict[str, Any]) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(raw))
        return str(path)

    return write
