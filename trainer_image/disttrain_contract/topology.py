"""Which rank sits where, and the environment it sees. Pure."""

from __future__ import annotations

from disttrain_contract.messages import Membership

MASTER_PORT_BASE = 29500
"""torchrun's default port."""
PORT_SPAN = 100
"""Each incarnation meets on a port of its own, so that a late joiner of an older one finds nobody."""


def master_port(incarnation: int) -> int:
    """Where the ranks of an incarnation rendezvous."""
    return MASTER_PORT_BASE + incarnation % PORT_SPAN


def rank_of(worker_index: int, local_rank: int, processes_per_worker: int) -> int:
    """Ranks are numbered worker by worker, as torchrun does."""
    return worker_index * processes_per_worker + local_rank


def rank_env(members: Membership, worker_index: int, local_rank: int, job_uid: str) -> dict[str, str]:
    """What torchrun would set for this rank, and the PET_* names for a command that is torchrun itself."""
    per = members.processes_per_worker
    world = members.workers * per
    return {
        "RANK": str(rank_of(worker_index, local_rank, per)),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(per),
        "GROUP_RANK": str(worker_index),
        "GROUP_WORLD_SIZE": str(members.workers),
        "ROLE_RANK": str(rank_of(worker_index, local_rank, per)),
        "ROLE_WORLD_SIZE": str(world),
        "MASTER_ADDR": members.master_addr,
        "MASTER_PORT": str(members.master_port),
        "PET_NNODES": str(members.workers),
        "PET_NPROC_PER_NODE": str(per),
        "PET_NODE_RANK": str(worker_index),
        "PET_MASTER_ADDR": members.master_addr,
        "PET_MASTER_PORT": str(members.master_port),
        "TORCHELASTIC_RESTART_COUNT": str(members.incarnation - 1),
        "TORCHELASTIC_RUN_ID": job_uid,
    }
