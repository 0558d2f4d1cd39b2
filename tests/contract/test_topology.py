"""Ranks are numbered as torchrun numbers them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract.messages import Membership
from disttrain_contract.topology import PORT_SPAN, master_port, rank_env, rank_of


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_rank_is_given_once(workers: int, per: int) -> None:
    assert [rank_of(w, r, per) for w in range(workers) for r in range(per)] == list(range(workers * per))


def test_the_second_process_of_the_third_worker() -> None:
    members = Membership(
        incarnation=4, workers=3, processes_per_worker=2, master_addr="10.0.0.1", master_port=master_port(4)
    )
    env = rank_env(members, worker_index=2, local_rank=1, job_uid="u")
    assert env["RANK"] == "5" and env["WORLD_SIZE"] == "6"
    assert env["LOCAL_RANK"] == "1" and env["LOCAL_WORLD_SIZE"] == "2" and env["GROUP_RANK"] == "2"
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("10.0.0.1", "29504")
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"], env["PET_NODE_RANK"]) == ("3", "2", "2")
    assert env["TORCHELASTIC_RESTART_COUNT"] == "3"


@given(st.integers(1, 10_000))
def test_neighbouring_incarnations_never_meet_on_one_port(n: int) -> None:
    assert master_port(n) != master_port(n + 1)
    assert 1024 < master_port(n) < master_port(0) + PORT_SPAN
