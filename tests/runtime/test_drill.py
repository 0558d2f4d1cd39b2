"""Faults made on purpose hit the rank that is meant, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from disttrain_contract.drill import CONTINUE_RANK, MODULE, Exit, Fault
from disttrain_runtime import drill
from disttrain_runtime.drill import Rank, main, rank_of, ranks

ROOT = Path(__file__).resolve().parents[2]
NAMED = "from disttrain_runtime.agent.kernel import name_self; name_self({!r}); "
SLEEP = "import time; print('here', flush=True); time.sleep(60)"
ME = os.getpid()


class Pod:
    """Processes as an agent has them; this process stands for the agent."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, code: str = SLEEP, *, name: str = "", leads: bool = True, **environment: str) -> int:
        code = NAMED.format(name) + code if name else code
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "trainer_image")} | environment,
            stdout=subprocess.PIPE, start_new_session=leads,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        return process.pid

    def end_of(self, pid: int) -> int:
        return next(p for p in self.processes if p.pid == pid).wait(10)

    def alive(self, pid: int) -> bool:
        return next(p for p in self.processes if p.pid == pid).poll() is None


@pytest.fixture
def pod() -> Iterator[Pod]:
    made = Pod()
    yield made
    for process in made.processes:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with its children
        process.kill()
        process.communicate()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("name", "environment", "rank"),
    [
        ("rank-3", {}, 3),
        ("rank-3", {"RANK": "1"}, 3),  # given another place since it was executed
        ("python", {"RANK": "1"}, 1),
        ("torchrun", {"RANK": "4"}, 4),
        ("spare", {"RANK": "1"}, None),
        ("warm-parent", {}, None),
        ("python", {}, None),
        ("python", {"RANK": "many"}, None),
        ("rank-3x", {}, None),
    ],
)
def test_a_rank_is_known_by_its_name_or_else_by_its_environment(
    name: str, environment: dict[str, str], rank: int | None
) -> None:
    assert rank_of(name, environment) == rank


def test_of_all_processes_in_a_pod_only_those_that_train_are_ranks(pod: Pod) -> None:
    ours = pod.start(name="rank-3")
    executed = pod.start(RANK="4")
    pod.start(name="spare")
    pod.start(name="warm-parent")
    pod.start(name="rank-5", leads=False)  # a stray data loader of a rank that is gone
    pod.start(f"import os\nif os.fork():\n {SLEEP}\nelse:\n import time; time.sleep(60)", RANK="6")
    found = sorted(ranks(ME), key=lambda r: r.rank)
    assert [(r.rank, r.pid) for r in found[:2]] == [(3, ours), (4, executed)]
    assert [r.rank for r in found] == [3, 4, 6], "the child of rank 6 is no second rank 6"
    assert not list(ranks(ours))


def test_the_rank_that_is_asked_for_is_killed_and_no_other(pod: Pod, capfd: pytest.CaptureFixture[str]) -> None:
    others = [pod.start(name=name) for name in ("rank-2", "spare", "warm-parent")]
    victim = pod.start(name="rank-3")
    assert main([Fault.KILL_RANK, "--rank", "3"], {}, ME) == Exit.DONE
    assert capfd.readouterr().out == "rank 3\n"
    assert pod.end_of(victim) == -signal.SIGKILL
    assert all(pod.alive(pid) for pid in others)


def test_without_a_number_it_is_the_first_rank_of_the_pod(pod: Pod, capfd: pytest.CaptureFixture[str]) -> None:
    pod.start(name="rank-3")
    first = pod.start(RANK="2")
    assert main([Fault.KILL_RANK], {}, ME) == Exit.DONE
    assert pod.end_of(first) == -signal.SIGKILL and capfd.readouterr().out == "rank 2\n"


def test_a_rank_elsewhere_is_said_with_those_that_are_here(pod: Pod, capfd: pytest.CaptureFixture[str]) -> None:
    pod.start(name="rank-0")
    pod.start(name="rank-1")
    assert main([Fault.KILL_RANK, "--rank", "7"], {}, ME) == Exit.NOT_HERE
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "rank 7 does not run here; ranks here: 0, 1\n")


def test_a_pod_in_which_nothing_trains_is_left_alone(pod: Pod, capfd: pytest.CaptureFixture[str]) -> None:
    spare = pod.start(name="spare")
    assert main([Fault.KILL_RANK], {}, ME) == Exit.NOT_HERE
    assert capfd.readouterr().err == "no rank runs here\n" and pod.alive(spare)


def test_a_stopped_rank_can_be_continued(pod: Pod) -> None:
    pid = pod.start(name="rank-0")
    assert main([Fault.STOP_RANK, "--rank", "0"], {}, ME) == Exit.DONE
    eventually(lambda: state(pid) == "T")
    assert main([CONTINUE_RANK, "--rank", "0"], {}, ME) == Exit.DONE
    eventually(lambda: state(pid) == "S")


def test_a_rank_that_ends_while_it_is_looked_at_is_not_hit(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another process's by then: this one, here."""
    stranger = pod.start()
    looks = iter([[Rank(0, stranger)], []])
    monkeypatch.setattr(drill, "ranks", lambda _: next(looks))
    assert main([Fault.KILL_RANK], {}, ME) == Exit.NOT_HERE
    assert pod.alive(stranger)


class SmallVolume:
    """A file system of its own, 1 MiB."""

    def __init__(self, mount: Path) -> None:
        self.mount, self.job = mount, mount / "mnist"
        self.mount.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            pytest.skip(f"mounting needs more rights: {made.stderr.strip()}")
        self.job.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        return {"DISTTRAIN_CHECKPOINT_MOUNT": str(self.mount), "DISTTRAIN_JOB": "mnist"}

    @property
    def free(self) -> int:
        found = os.statvfs(self.mount)
        return found.f_bavail * found.f_frsize

    def start(self, seconds: float) -> subprocess.Popen[str]:
        """The module as a program, as soon as it says that the volume is full."""
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, Fault.FILL_DISK, "--claim-bytes", str(1 << 20), "--seconds", str(seconds)],
            env=self.environment | {"PYTHONPATH": str(ROOT / "trainer_image")}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None and process.stdout.readline().startswith(f"{self.job}, ")
        return process


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[SmallVolume]:
    small = SmallVolume(tmp_path / "volume")
    yield small
    subprocess.run(["umount", "--lazy", str(small.mount)], check=True)


def test_a_full_volume_has_no_room_for_one_block_and_is_as_before_afterwards(volume: SmallVolume) -> None:
    before = volume.free
    filling = volume.start(seconds=0.5)
    assert volume.free == 0
    with pytest.raises(OSError, match="No space left"):
        (volume.job / "checkpoint").write_bytes(b"x" * 4096)
    assert filling.wait(10) == Exit.DONE
    (volume.job / "checkpoint").unlink()
    assert volume.free == before and not list(volume.job.iterdir())


def test_room_that_is_made_meanwhile_is_taken_too(volume: SmallVolume) -> None:
    (volume.job / "old").write_bytes(bytes(64 * 1024))
    filling = volume.start(seconds=30)
    (volume.job / "old").unlink()
    eventually(lambda: volume.free == 0)
    filling.kill()
    filling.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_however_it_ends_the_room_is_given_back(volume: SmallVolume, number: signal.Signals) -> None:
    before = volume.free
    filling = volume.start(seconds=60)
    filling.send_signal(number)
    filling.wait(10)
    assert volume.free == before and not list(volume.job.iterdir())


def test_when_nobody_listens_any_more_it_still_ends_in_time(volume: SmallVolume) -> None:
    before = volume.free
    filling = volume.start(seconds=0.3)
    assert filling.stdout is not None
    filling.stdout.close()
    assert filling.wait(10) == Exit.DONE and volume.free == before


def test_a_file_system_that_is_shared_with_others_is_never_filled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mnist").mkdir()
    environment = {"DISTTRAIN_CHECKPOINT_MOUNT": str(tmp_path), "DISTTRAIN_JOB": "mnist"}
    assert main([Fault.FILL_DISK, "--claim-bytes", "1048576"], environment) == Exit.IMPOSSIBLE
    assert "it is shared with others, whose disk would be filled, too" in capfd.readouterr().err


def test_without_a_volume_there_is_nothing_to_fill(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([Fault.FILL_DISK, "--claim-bytes", "1048576"], {}) == Exit.IMPOSSIBLE
    assert capfd.readouterr().err == "the job has no checkpoint volume\n"
