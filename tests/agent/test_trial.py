"""The same agent on a desk: what a newcomer tries first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.harness import ROOT

from disttrain_contract.env import WorkerEnv
from disttrain_runtime.agent.trial import trial_environment


def trial(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "disttrain_runtime.agent.trial", *arguments],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT / "trainer_image")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )


def test_a_script_runs_as_it_would_in_a_pod(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import os, sys; print(os.environ['RANK'], sys.argv[1:], flush=True)")
    ended = trial("--processes=2", "--volume=keep", "--", sys.executable, "train.py", "--lr", "1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "[rank 1] 1 ['--lr', '1']\n" in ended.stdout
    assert (tmp_path / "keep/trial/logs/incarnation-0001/rank-0.log").exists()


def test_its_exit_code_is_the_scripts(tmp_path: Path) -> None:
    assert trial("--", sys.executable, "-c", "raise SystemExit(5)", cwd=tmp_path).returncode == 5


def test_a_task_takes_the_words_as_its_arguments() -> None:
    run = WorkerEnv.from_env(trial_environment(["--entrypoint", "digits:build", "--seed=3", "--", "--lr", "1"])).run
    assert (run.entrypoint, run.command, run.args, run.seed) == ("digits:build", (), ("--lr", "1"), 3)


def test_without_anything_to_run_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        trial_environment([])
    assert "say what to run" in capsys.readouterr().err
