"""A real rank with a loader process, whose /dev/shm is full."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.agent.harness import AgentProcess, until

from disttrain_contract.env import RunConfig
from disttrain_contract.failures import FailureClass

pytestmark = [pytest.mark.torch, pytest.mark.timeout(180)]


def small(size: str) -> tuple[str, ...]:
    """So much shared memory, for the agent and all that it starts."""
    return ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} shm /dev/shm && exec "$@"', "sh")


@pytest.mark.parametrize(
    ("size", "words"), [("4k", "raise spec.sharedMemory"), ("64k", "unable to allocate shared memory")]
)
async def test_a_rank_without_shared_memory_says_what_it_lacks(tmp_path: Path, size: str, words: str) -> None:
    """It is full when the loaders are made, or with what they load."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    run = RunConfig(
        entrypoint="support.gloo_tasks:build", args=("--loaders=1",), processes_per_worker=1, grace_seconds=6.0
    )
    agent = AgentProcess(tmp_path, run, volume=tmp_path / "volume").start(wrap=small(size))
    try:
        await until(lambda: "failed: " in agent.output, "a failure", seconds=90)
        assert await agent.ended() == 1, agent.output
        failure = agent.last_words.failure
        assert failure is not None and failure.failure_class is FailureClass.CODE, agent.output
        assert words in failure.message, agent.output
    finally:
        agent.cleanup()
