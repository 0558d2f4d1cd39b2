"""One fault in a worker pod, on purpose: executed in the trainer's container by `disttrain drill`.

python -m disttrain_runtime.drill kill-rank [--rank 3]
python -m disttrain_runtime.drill fill-disk --claim-bytes 1073741824 --seconds 10

A rank is a child of the agent that leads a session of its own: so its data-loading children are none, nor are strays.
Which one it is says its name in /proc, which ranks of ours carry, or the environment that it was executed with. A spare
and the warm parent are never hit: a drill is about what trains.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from disttrain_contract import env, paths
from disttrain_contract.drill import CONTINUE_RANK, SPARE, WARM_PARENT, Exit, Fault
from disttrain_runtime.agent.kernel import stat_fields

AGENT = 1
"""The first process of the container."""
SIGNALS = {
    Fault.KILL_RANK: signal.SIGKILL,
    Fault.STOP_RANK: signal.SIGSTOP,
    CONTINUE_RANK: signal.SIGCONT,
}
_NAMED = re.compile(r"rank-(\d+)")
_NO_RANK = frozenset({SPARE, WARM_PARENT})
_PARENT, _SESSION = 4 - 3, 6 - 3  # in `stat_fields`
"""Fields of /proc/PID/stat, counted from behind the name, which may contain blanks."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
LARGEST, SMALLEST = 64 * 1024 * 1024, 4096
"""Steps in which a disk is filled: large ones for speed, then ever smaller ones up to the last block."""
ROUNDING = 1.25
"""A file system may be a little larger than the claim that it was made for: storage is handed out in steps."""
REFILL_SECONDS = 0.1
"""Room that somebody makes meanwhile is taken as well."""


class Impossible(Exception):
    """The fault cannot be made here."""


class NotHere(Exception):
    """That rank is not in this pod."""


@dataclass(frozen=True, slots=True)
class Rank:
    """A process that trains."""

    rank: int
    pid: int


def rank_of(name: str, environment: Mapping[str, str]) -> int | None:
    """Which rank a process of the agent is; None: none. Its name counts before the environment, which may be old: a rank
    of ours keeps its process when it is given another place."""
    if named := _NAMED.fullmatch(name):
        return int(named[1])
    text = environment.get("RANK", "")
    return int(text) if name not in _NO_RANK and text.isdecimal() else None


def ranks(agent: int) -> Iterator[Rank]:
    """All that run now under this agent."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError):  # it ended while we looked
            pid, fields = int(folder.name), stat_fields(folder / "stat")
            if int(fields[_PARENT]) == agent and int(fields[_SESSION]) == pid:
                rank = rank_of((folder / "comm").read_text().strip(), _environment(folder))
                if rank is not None:
                    yield Rank(rank, pid)


def send(agent: int, wanted: int | None, number: signal.Signals, say: Callable[[str], None]) -> None:
    """To that rank, or to the first one here. Says whom it hits just before it does."""
    here = sorted(ranks(agent), key=lambda r: r.rank)
    found = next((r for r in here if wanted in (None, r.rank)), None)
    if found is None:
        listed = ", ".join(str(r.rank) for r in here)
        raise NotHere(f"rank {wanted} does not run here; ranks here: {listed}" if listed else "no rank runs here")
    handle = os.pidfd_open(found.pid)
    try:
        if found not in ranks(agent):  # it ended meanwhile, and its number may be somebody else's
            raise NotHere(f"rank {found.rank} ended just now")
        say(f"rank {found.rank}")
        signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def fill(folder: Path, claim_bytes: int, seconds: float, say: Callable[[str], None]) -> None:
    """Leave no room in the file system of `folder` for so long.

    The file has no name: the kernel frees it with this process, however that ends.
    """
    whole = os.statvfs(folder)
    if whole.f_blocks * whole.f_frsize > claim_bytes * ROUNDING:
        raise Impossible(
            f"the file system of {folder} holds {whole.f_blocks * whole.f_frsize >> 20} MiB, but the claim asks for "
            f"{claim_bytes >> 20} MiB: it is shared with others, whose disk would be filled, too"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        size = take_all(file.fileno(), 0)
        say(f"{folder}, {size >> 20} MiB taken")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, REFILL_SECONDS))
            size = take_all(file.fileno(), size)


def take_all(file: int, size: int) -> int:
    """Make the file grow until nothing more fits; its new size."""
    step = LARGEST
    while step >= SMALLEST:
        try:
            os.posix_fallocate(file, size, step)
            size += step
        except OSError as error:
            if error.errno not in FULL:
                raise
            step //= 2
    return size


def volume(environment: Mapping[str, str]) -> Path:
    """The job's directory on its checkpoint volume."""
    mount, job = (environment.get(env.PREFIX + name, "") for name in ("CHECKPOINT_MOUNT", "JOB"))
    if not mount or not job:
        raise Impossible("the job has no checkpoint volume")
    return Path(paths.job_dir(PurePosixPath(mount), job))


def main(argv: Sequence[str], environment: Mapping[str, str], agent: int = AGENT) -> int:
    """The exit code."""
    asked = _parse(argv)
    try:
        if asked.fault == Fault.FILL_DISK:
            fill(volume(environment), asked.claim_bytes, asked.seconds, _say)
        else:
            send(agent, asked.rank, SIGNALS[asked.fault], _say)
    except NotHere as problem:
        sys.stderr.write(f"{problem}\n")
        return Exit.NOT_HERE
    except (Impossible, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return Exit.IMPOSSIBLE
    return Exit.DONE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m disttrain_runtime.drill", description="Make one fault in this pod."
    )
    faults = parser.add_subparsers(dest="fault", required=True)
    for name in SIGNALS:
        faults.add_parser(name).add_argument("--rank", type=int)
    disk = faults.add_parser(Fault.FILL_DISK)
    disk.add_argument("--claim-bytes", type=int, required=True)
    disk.add_argument("--seconds", type=float, default=10.0)
    return parser.parse_args(argv)


def _environment(folder: Path) -> dict[str, str]:
    """What a process was executed with."""
    words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
