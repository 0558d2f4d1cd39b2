"""What a rank is started with: its command line and its environment. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from disttrain_contract import env, paths
from disttrain_contract.env import RunConfig, WorkerEnv
from disttrain_contract.messages import Membership
from disttrain_contract.topology import rank_env, rank_of
from disttrain_runtime.script import can_run

WORKER_MODULE = "disttrain_runtime.worker"
PRELOAD = (WORKER_MODULE, "torch._dynamo")
"""What a task's ranks find imported. The first optimizer step imports torch._dynamo anyway, used or not: half as long
again as torch itself."""
SCRIPT_MODULE = "disttrain_runtime.script"
SCRIPT_PRELOAD = (SCRIPT_MODULE, "torch", "torch._dynamo")
"""The same for a program that is not ours. Of torch only what is the same whoever imports it, and when."""
SPARE = -1
"""In place of the rank of a process that has none yet."""
_LAUNCHERS = frozenset({"torch.distributed.run", "torch.distributed.launch"})


@dataclass(frozen=True, slots=True)
class RankSpec:
    """One process to start."""

    rank: int
    local_rank: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]


def is_torchrun(command: tuple[str, ...]) -> bool:
    """torchrun starts the ranks of a pod by itself: it is started once, as `torchrun …` or `python -m …run …`."""
    if not command:
        return False
    words = command[: command.index("-m") + 2] if "-m" in command else command[:1]
    return PurePosixPath(command[0]).name == "torchrun" or words[-1] in _LAUNCHERS


def rank_command(run: RunConfig) -> tuple[str, ...]:
    """The program of a rank: a task of ours, or the user's command as it stands, without a shell."""
    if run.entrypoint is not None:
        return (sys.executable, "-m", WORKER_MODULE)
    return (*run.command, *run.args)


def preload(run: RunConfig, path: str | None) -> tuple[str, ...]:
    """What a warm parent imports for this job. Empty: its program can only be executed."""
    if run.entrypoint is not None:
        return PRELOAD
    return SCRIPT_PRELOAD if can_run(rank_command(run), path) else ()


def parent_environment(worker: WorkerEnv, processes: int, base: Mapping[str, str]) -> dict[str, str]:
    """What a warm parent starts with: what its ranks will have, as far as it is known before there is a group."""
    return _defaults(processes) | dict(base) | worker.to_env()


def settled(environment: Mapping[str, str]) -> dict[str, str]:
    """The part that is the same for every rank of every incarnation. Interpreter and libraries read it when they are
    loaded, so ranks can be forked only from a parent that was loaded with the same."""
    return {k: v for k, v in environment.items() if k not in env.RESERVED and not k.startswith(env.PREFIX)}


def spare_spec(worker: WorkerEnv, processes: int, base: Mapping[str, str]) -> RankSpec:
    """A rank without a place: it builds its task, and waits for the order that gives it one."""
    environment = parent_environment(worker, processes, base) | _job_directory(worker) | {env.SPARE: "1"}
    return RankSpec(SPARE, SPARE, rank_command(worker.run), environment)


def rank_specs(worker: WorkerEnv, members: Membership, group_rank: int, base: Mapping[str, str]) -> list[RankSpec]:
    """The processes of this pod in one incarnation. `base` is the container's environment."""
    argv = rank_command(worker.run)
    launcher = worker.run.entrypoint is None and is_torchrun(argv)
    count = 1 if launcher else members.processes_per_worker
    return [
        RankSpec(
            rank_of(group_rank, local_rank, members.processes_per_worker),
            local_rank,
            argv,
            _environment(worker, members, group_rank, local_rank, base),
        )
        for local_rank in range(count)
    ]


def job_directory(worker: WorkerEnv) -> PurePosixPath | None:
    """Where the job keeps its things on the volume, if it has one."""
    return paths.job_dir(PurePosixPath(worker.checkpoint_mount), worker.job) if worker.checkpoint_mount else None


def place_environment(worker: WorkerEnv, members: Membership, group_rank: int, local_rank: int) -> dict[str, str]:
    """The part of a rank's environment that another incarnation changes."""
    place = rank_env(members, group_rank, local_rank, worker.job_uid)
    return place | {env.INCARNATION: str(members.incarnation)}


def _environment(
    worker: WorkerEnv, members: Membership, group_rank: int, local_rank: int, base: Mapping[str, str]
) -> dict[str, str]:
    return (
        parent_environment(worker, members.processes_per_worker, base)
        | place_environment(worker, members, group_rank, local_rank)
        | _job_directory(worker)
    )


def _job_directory(worker: WorkerEnv) -> dict[str, str]:
    directory = job_directory(worker)
    return {env.JOB_DIR: str(directory)} if directory else {}


def _defaults(processes: int) -> dict[str, str]:
    """What a user may override."""
    return {
        "PYTHONUNBUFFERED": "1",  # a rank's output is a pipe: without this its last words die with it
        "PYTHONFAULTHANDLER": "1",  # a stack for SIGSEGV and SIGABRT
        # torch asks for huge pages: a state of 40 MB is 20 page faults to take up instead of 10,000, and as many to give back,
        # which is what stands between SIGKILL and the moment survivors hear of it.
        "THP_MEM_ALLOC_ENABLE": "1",
        # Same as torchrun: several processes with a thread per core each would fight for the cores.
        **({"OMP_NUM_THREADS": "1"} if processes > 1 else {}),
    }
