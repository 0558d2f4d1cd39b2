"""Real groups that compute nonsense: they end before it is saved, and say which rank it was."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from disttrain_contract.env import CheckpointConfig, RunConfig
from disttrain_contract.messages import Failure
from support.gloo_ranks import Ranks

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def fail(tmp_path: Path, world: int, *args: str, every: int = 10) -> Ranks:
    run = RunConfig(
        entrypoint="support.faulty_tasks:build", args=args, checkpoint=CheckpointConfig(every_steps=every, asynchronous=False)
    )  # fmt: skip
    with Ranks(tmp_path / "logs", run, world, job_dir=tmp_path / "job") as ranks:
        assert ranks.ended() == [1] * world, ranks.output(0)
        return ranks


def classes(ranks: Ranks) -> list[str]:
    return [str(ranks.told.failure(rank).failure_class) for rank in range(ranks.world)]


def test_a_loss_that_is_no_number_ends_its_rank_before_anybody_hears_of_it(tmp_path: Path) -> None:
    ranks = fail(tmp_path, 3, "--fault=nan", "--rank=1", "--at=34")
    assert classes(ranks) == ["Network", "NonFinite", "Network"]
    failure = ranks.told.failure(1)
    assert failure.step == 34 and "the loss of rank 1 is nan in step 34" in failure.message
    assert [c.step for c in ranks.told.checkpoints] == [10, 20, 30]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_replica_that_differs_in_one_bit_is_told_from_the_two_that_agree(tmp_path: Path, rank: int) -> None:
    ranks = fail(tmp_path, 3, "--fault=flip", f"--rank={rank}", "--at=37")
    expected = ["Network"] * 3
    expected[rank] = "Divergence"
    assert classes(ranks) == expected
    assert f"the replica of rank {rank} differs from the 2 that agree" in ranks.told.failure(rank).message
    assert rank != 0 or all(c.step < 38 for c in ranks.told.checkpoints), "rank 0 saves: not what differs"


def test_of_two_nobody_can_say_which_is_right(tmp_path: Path) -> None:
    ranks = fail(tmp_path, 2, "--fault=flip", "--rank=1", "--at=37")
    assert classes(ranks) == ["Divergence", "Divergence"]
    assert "no majority" in ranks.told.of(Failure)[0].message


def test_parameters_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    """The loss of this step is fine, its gradient is not."""
    ranks = fail(tmp_path, 2, "--fault=poison", "--rank=1", "--at=29", every=10)
    assert "NonFinite" in classes(ranks)
    assert [c.step for c in ranks.told.checkpoints] == [10, 20]
