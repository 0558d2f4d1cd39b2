"""Stories about an agent's processes, each told in a process of its own: only there may somebody reap every child."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from disttrain_runtime.agent.launch import RankSpec
from disttrain_runtime.agent.rank_process import Listener, RankProcess
from disttrain_runtime.agent.supervisor import Supervisor
from disttrain_runtime.agent.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.support.fake_rank"
EXECUTED = (sys.executable, "-m", MODULE)


class Stage:
    """A supervisor with a warm parent, as the agent has them, and what they heard."""

    def __init__(self, *, warm: bool = True, **environment: str) -> None:
        self.environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | environment
        self.said: list[str] = []
        self.lines: dict[int, list[str]] = {}
        self.ended: dict[int, int] = {}
        self.kills = 0
        self.warm = Warm([MODULE], self.environment, self.said.append, self._killed) if warm else None
        listener = Listener(self._on_lines, lambda *_: None)
        self.supervisor = Supervisor(listener, self._on_exit, init=True, warm=self.warm)

    async def ready(self) -> Stage:
        """The parent is there, or will not be."""
        assert self.warm is not None
        await self.warm.decided
        return self

    @property
    def parent(self) -> int:
        assert self.warm is not None and self.warm.pid is not None, self.said
        return self.warm.pid

    def start(self, program: str, rank: int = 0, *, words: tuple[str, ...] = (), **more: str) -> None:
        environment = self.environment | {"RANK": str(rank), "DISTTRAIN_PROGRAM": program} | more
        self.supervisor.start(RankSpec(rank, rank, (*EXECUTED, *words), environment))

    async def run(self, program: str, rank: int = 0, *, words: tuple[str, ...] = (), **more: str) -> int:
        """Start it and wait for its end: its status."""
        self.ended.pop(rank, None)
        self.start(program, rank, words=words, **more)
        await self.until(lambda: rank in self.ended)
        return self.ended[rank]

    async def until(self, true: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(30):
                while not true():
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"waited in vain; said {self.said}, heard {self.lines}") from None

    def has_said(self, words: str) -> bool:
        return any(words in line for line in self.said)

    def _killed(self) -> None:
        self.kills += 1

    def _on_lines(self, spec: RankSpec, lines: list[bytes]) -> None:
        self.lines.setdefault(spec.rank, []).extend(line.decode() for line in lines)

    def _on_exit(self, rank: RankProcess, status: int) -> None:
        self.ended[rank.spec.rank] = status


def children() -> list[int]:
    """Also the zombies."""
    return [int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def in_a_process_of_its_own(story: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Makes a test of a coroutine function."""

    def test() -> None:
        environment: Mapping[str, str] = dict(os.environ) | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'trainer_image'}",
            "PYTHONHASHSEED": "0",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "tests.agent.stage", story.__module__, story.__name__],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    test.story = story  # type: ignore[attr-defined]
    return test


async def _tell(module: str, name: str) -> None:
    await getattr(importlib.import_module(module), name).story()


if __name__ == "__main__":
    asyncio.run(_tell(sys.argv[1], sys.argv[2]))
