"""What a rank is started with."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from disttrain_contract import env
from disttrain_contract.env import RunConfig, WorkerEnv
from disttrain_contract.messages import Membership
from disttrain_runtime.agent.launch import is_torchrun, rank_specs, spare_spec

MEMBERS = Membership(incarnation=4, workers=3, processes_per_worker=2, master_addr="10.0.0.1", master_port=29504)
WORKER = WorkerEnv(
    job="mnist",
    job_uid="u",
    namespace="team",
    pod_name="mnist-1",
    pod_uid="p",
    pod_ip="10.0.0.2",
    node_name="n",
    worker_index=1,
    workers=3,
    operator_url="",
    checkpoint_mount="/checkpoints",
    run=RunConfig(command=("python", "train.py"), args=("--lr", "$HOME; echo")),
)


def test_a_command_runs_as_it_stands_once_per_rank() -> None:
    specs = rank_specs(WORKER, MEMBERS, 1, {})
    assert [(s.rank, s.local_rank) for s in specs] == [(2, 0), (3, 1)]
    assert {s.argv for s in specs} == {("python", "train.py", "--lr", "$HOME; echo")}


def test_a_task_runs_under_our_worker() -> None:
    task = replace(WORKER, run=RunConfig(entrypoint="digits:build", args=("--lr", "1")))
    assert rank_specs(task, MEMBERS, 1, {})[0].argv == (sys.executable, "-m", "disttrain_runtime.worker")


def test_torchrun_starts_the_ranks_of_a_pod_itself() -> None:
    torchrun = replace(WORKER, run=RunConfig(command=("/opt/bin/torchrun", "train.py")))
    (spec,) = rank_specs(torchrun, MEMBERS, 1, {})
    assert spec.rank == 2
    found = {name: value for name, value in spec.environment.items() if name.startswith("PET_")}
    assert found == {
        "PET_NNODES": "3",
        "PET_NPROC_PER_NODE": "2",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "10.0.0.1",
        "PET_MASTER_PORT": "29504",
    }


@pytest.mark.parametrize(
    ("command", "it_is"),
    [
        (("torchrun",), True),
        (("/usr/bin/torchrun", "-m", "x"), True),
        (("python", "-m", "torch.distributed.run", "train.py"), True),
        (("python", "-m", "torch.distributed.launch"), True),
        (("python", "train.py", "torchrun"), False),
        (("python", "-m", "train"), False),
        (("python", "-m"), False),
        ((), False),
    ],
)
def test_what_is_torchrun(command: tuple[str, ...], it_is: bool) -> None:
    assert is_torchrun(command) is it_is


def test_a_rank_sees_who_it_is_and_all_that_the_pod_sees() -> None:
    second = rank_specs(WORKER, MEMBERS, 1, {"MINE": "1", "RANK": "77", "PYTHONUNBUFFERED": "0"})[1].environment
    assert second["MINE"] == "1" and second["PYTHONUNBUFFERED"] == "0", "the user's word stands"
    assert second["RANK"] == "3" and second["WORLD_SIZE"] == "6", "but not about the group"
    assert second[env.INCARNATION] == "4" and second[env.JOB_DIR] == "/checkpoints/mnist"
    assert WorkerEnv.from_env(second) == WORKER


def test_without_a_volume_there_is_no_job_directory() -> None:
    assert env.JOB_DIR not in rank_specs(replace(WORKER, checkpoint_mount=""), MEMBERS, 1, {})[0].environment


def test_last_words_are_not_lost_in_a_buffer_and_cores_are_shared() -> None:
    environment = rank_specs(WORKER, MEMBERS, 1, {})[0].environment
    assert environment["PYTHONUNBUFFERED"] == environment["PYTHONFAULTHANDLER"] == environment["OMP_NUM_THREADS"] == "1"
    alone = rank_specs(WORKER, replace(MEMBERS, processes_per_worker=1), 1, {})[0].environment
    assert "OMP_NUM_THREADS" not in alone


def test_a_pod_may_take_another_place_than_its_own_index() -> None:
    first = rank_specs(WORKER, MEMBERS, 0, {})[0]
    assert (first.rank, first.environment["GROUP_RANK"]) == (0, "0")


def test_a_spare_knows_its_job_and_not_its_place() -> None:
    task = replace(WORKER, run=RunConfig(entrypoint="digits:build"))
    spare = spare_spec(task, 2, {})
    assert spare.argv == (sys.executable, "-m", "disttrain_runtime.worker")
    assert spare.environment[env.SPARE] and spare.environment[env.JOB_DIR] == "/checkpoints/mnist"
    assert not {"RANK", "MASTER_ADDR", env.INCARNATION} & set(spare.environment)
