"""A real agent in a process of its own, with its files in a folder of the test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from disttrain_contract.env import RunConfig, WorkerEnv
from disttrain_contract.messages import Assignment, Membership, Report, decode_report

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
"""How long a test waits for what must happen; a busy machine is no failure."""
DRIVER = """
import os, sys
from pathlib import PurePosixPath as P
from disttrain_runtime.agent.app import Places
from disttrain_runtime.agent.entry import run_agent
os._exit(run_agent(os.environ, Places(P(sys.argv[1]) / "token", P(sys.argv[1]) / "last-words"), eval(sys.argv[2])))
"""


def python(program: str) -> RunConfig:
    """Every rank runs this program."""
    return RunConfig(command=(sys.executable, "-c", program), processes_per_worker=2, grace_seconds=6.0)


def members(incarnation: int, per: int = 2, workers: int = 1) -> Membership:
    return Membership(
        incarnation=incarnation, workers=workers, processes_per_worker=per, master_addr="127.0.0.1", master_port=29501
    )


def go(incarnation: int, per: int = 2) -> Assignment:
    return Assignment(job_uid="job-uid", incarnation=incarnation, membership=members(incarnation, per))


def alive(pid: int) -> bool:
    """Not even a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Also the zombies."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until(true: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
    """Wait for what no event tells of."""
    try:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {seconds} s for {what or true}") from None


class AgentProcess:
    """One agent; `folder` is its world."""

    def __init__(self, folder: Path, run: RunConfig, url: str = "", ca: str = "", volume: Path | None = None) -> None:
        self.folder = folder
        self.out = folder / "stdout"
        self.last_words_file = folder / "last-words"
        self.worker = WorkerEnv(
            job="mnist",
            job_uid="job-uid",
            namespace="team",
            pod_name="mnist-0",
            pod_uid="uid-of-a",
            pod_ip="127.0.0.1",
            node_name="here",
            worker_index=0,
            workers=1,
            operator_url=url,
            operator_ca=ca,
            checkpoint_mount=str(volume) if volume else "",
            run=run,
        )
        self.token("token-of-a")
        self.last_words_file.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def token(self, text: str) -> None:
        """What the kubelet puts there."""
        (self.folder / "token").write_text(text)

    def change(self, **changes: object) -> AgentProcess:
        """Before the start: another environment."""
        self.worker = replace(self.worker, **changes)  # type: ignore[arg-type]
        return self

    def start(
        self, early: str = "()", stdout: int | None = None, wrap: tuple[str, ...] = (), before: str = ""
    ) -> AgentProcess:
        """Run it. `wrap` goes before the command line, `before` is run in the agent's process before it starts."""
        path = ":".join(map(str, (ROOT / "trainer_image", ROOT, ROOT / "tests")))
        environment = dict(os.environ) | {"PYTHONPATH": path, "FOLDER": str(self.folder)}
        with self.out.open("wb") as out:
            self._process = subprocess.Popen(
                [*wrap, sys.executable, "-c", before + DRIVER, str(self.folder), early],
                env=environment | self.worker.to_env(),
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ranks(self) -> list[int]:
        """Its children that are not zombies."""
        return [pid for pid in children(self.pid) if alive(pid)]

    @property
    def output(self) -> str:
        return self.out.read_text()

    @property
    def last_words(self) -> Report:
        """What the kubelet would find."""
        return decode_report(self.last_words_file.read_text())

    @property
    def words(self) -> dict[str, object]:
        """As raw JSON."""
        found: dict[str, object] = json.loads(self.last_words_file.read_text())
        return found

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> int:
        """Its exit code."""
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None, "the agent to end")
        assert process.returncode is not None
        return process.returncode

    def cleanup(self) -> None:
        """Whatever the test left. Ranks die with their agent."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
