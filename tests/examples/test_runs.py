"""The examples as a newcomer starts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import CheckpointConfig, EvaluationConfig, RunConfig
from disttrain_contract.strategy import StrategyConfig
from support.gloo_ranks import Ranks

pytestmark = [pytest.mark.torch, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


def torchrun(*args: str, **env: str) -> str:
    """What a run with two processes prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *args],
        env=os.environ | {"PYTHONPATH": f"{ROOT}/trainer_image:{ROOT}/examples", "OMP_NUM_THREADS": "1"} | env,
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_digits_under_torchrun_print_progress_and_need_no_cluster(tmp_path: Path) -> None:
    task = (
        "-m",
        "disttrain_runtime.worker",
        "--entrypoint",
        "digits.task:build",
        "--checkpoints",
        str(tmp_path),
        "--every-steps",
        "10",
    )
    said = torchrun(*task, "--", "--epochs", "1", "--batch-size=96")
    assert re.search(r"^step 1/15  epoch 0  loss 2\.\d+", said, re.MULTILINE)
    assert re.search(r"^step 15/15 .* accuracy 0\.\d+$", said, re.MULTILINE)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000015"]


def test_digits_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of the sixty epochs: enough to know that it learns, not yet what the README promises."""
    config = RunConfig(
        entrypoint="digits.task:build", args=("--epochs", "10"),
        checkpoint=CheckpointConfig(every_steps=50), evaluation=EvaluationConfig(every_steps=75),
    )  # fmt: skip
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=tmp_path / "job") as ranks:
        assert ranks.ended() == [0, 0], ranks.output()
    assert ranks.told.progress.metrics["accuracy"] > 0.9
    assert ranks.told.progress.total_steps == 150


@pytest.mark.parametrize(
    ("entrypoint", "args", "chance"),
    [
        (
            "language.task:build",
            ("--steps=100", "--lr=0.01", "--width=48", "--layers=1"),
            0.19,
        ),  # of the characters are spaces
        ("speech.task:build", ("--epochs=4", "--voices=30"), 0.1),
    ],
)
def test_others_learn_within_seconds_more_than_chance_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entrypoint: str, args: tuple[str, ...], chance: float
) -> None:
    config = RunConfig(entrypoint=entrypoint, args=args, strategy=StrategyConfig(max_grad_norm=1.0))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    with Ranks(tmp_path / "logs", config, 2, job_dir=tmp_path / "job") as ranks:
        assert ranks.ended() == [0, 0], ranks.output()
    assert ranks.told.progress.metrics["accuracy"] > 1.3 * chance


def test_the_plain_script_trains_and_goes_on_from_its_own_state(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "text" / "train.py")
    first = torchrun(script, "--steps", "12", "--save-every", "5", "--batch", "4", DISTTRAIN_JOB_DIR=str(tmp_path))
    assert "2 processes" in first
    assert "from step 0" in first
    again = torchrun(script, "--steps", "14", "--batch", "4", DISTTRAIN_JOB_DIR=str(tmp_path))
    assert "from step 12" in again
    assert re.search(r"validation loss \d\.\d+ after 14 steps", again)
