"""Forked or executed: the same bytes at the end of training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.agent.harness import AgentProcess, until

from disttrain_contract.env import CheckpointConfig, RunConfig

pytestmark = [pytest.mark.torch, pytest.mark.timeout(240)]

THREADS = "2"
"""More than one: how sums are split over threads shows in their last bits."""
NO_PARENT = "from disttrain_runtime.agent import launch; launch.PRELOAD = ('no_such_module',)\n"
TASK = RunConfig(
    entrypoint="tests.distributed.test_warm_start:build",
    args=("--steps=12", "--width=512"),
    processes_per_worker=1,
    checkpoint=CheckpointConfig(every_steps=6, asynchronous=False),
)


def build(steps: int, width: int):  # type: ignore[no-untyped-def]
    """The task of the stories, which says with how many threads it computes."""
    import threading

    import numpy as np
    import torch

    from support.gloo_tasks import build as build_task

    numbers = np.random.default_rng(0).random((600, 600))
    product = hashlib.sha256((numbers @ numbers).tobytes()).hexdigest()
    native = len(list(Path("/proc/self/task").iterdir())) - threading.active_count()
    print(f"computes with torch {torch.get_num_threads()}, native {native}, numpy {product}", flush=True)
    return build_task(steps=steps, width=width, batch_size=64, samples=256)


async def trained(folder: Path, before: str) -> tuple[str, dict[str, str], str]:
    folder.mkdir()
    agent = AgentProcess(folder, TASK, volume=folder / "volume").start(before=before)
    try:
        ended: Callable[[], bool] = lambda: agent.last_words_file.stat().st_size > 0  # noqa: E731
        for _ in range(8):  # imports of torch on a busy machine
            try:
                await until(ended)
                break
            except AssertionError:
                continue
        assert await agent.ended() == 0, agent.output
    finally:
        agent.cleanup()
    steps = sorted((folder / "volume/mnist/checkpoints").glob("step-*/*.safetensors"))
    digests = {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in steps}
    (said,) = [line for line in agent.output.splitlines() if "computes with" in line]
    return agent.output, digests, said


async def test_weights_and_optimizer_are_bitwise_those_of_an_executed_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", THREADS)
    forked_output, forked, forked_said = await trained(tmp_path / "forked", "")
    executed_output, executed, executed_said = await trained(tmp_path / "executed", NO_PARENT)
    assert "ranks are forked from it" in forked_output and "executed" not in forked_output, forked_output
    assert "ranks will be executed" in executed_output
    assert forked_said == executed_said and f"torch {THREADS}," in forked_said
    assert len(forked) >= 2 and forked == executed
