"""Real groups on a network of their own, which loses, delays and changes packets, and is cut."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file
from tests.distributed.test_group_training import expected_ledger
from tests.distributed.test_regroup import STEPS, TASK, WORLD, holding, quiet

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Restore
from support.gloo_ranks import Door, Ranks, digests
from support.wire import Noise, Wire

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire(WORLD)
    yield made
    made.close()


class Storm:
    """One packet in a hundred is lost, as many come twice, and each is late by some milliseconds of its own, so that
    packets overtake each other."""

    def __init__(self) -> None:
        self.chance, self.seen = random.Random(7), Counter[str]()

    def __call__(self, sender: int, receiver: int, packet: bytes) -> list[tuple[float, bytes]]:
        fate = self.chance.choices(("lost", "doubled", "late"), (1, 1, 98))[0]
        self.seen[fate] += 1
        copies = {"lost": 0, "doubled": 2, "late": 1}[fate]
        return [(self.chance.uniform(0, 0.004), packet) for _ in range(copies)]


def test_packets_that_are_lost_late_doubled_and_out_of_order_change_no_bit(tmp_path: Path, wire: Wire) -> None:
    wire.weather = storm = Storm()
    with Ranks(tmp_path / "logs", TASK, WORLD, job_dir=tmp_path / "job", wire=wire) as ranks:
        assert ranks.ended() == [0] * WORLD, ranks.output(0)
    assert all(storm.seen[fate] for fate in ("lost", "doubled", "late"))
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path)


TO, FROM = ((0, 2), (1, 2)), ((2, 0), (2, 1))


@pytest.mark.parametrize("ways", [(*TO, *FROM), TO, FROM], ids=["both ways", "to it", "from it"])
def test_a_rank_that_is_cut_off_is_left_behind(tmp_path: Path, wire: Wire, ways: tuple[tuple[int, int], ...]) -> None:
    """No connection ends, so nobody notices: the order does it. The others go on without it and lose no step."""
    door = Door(tmp_path, 7)
    config = replace(TASK, entrypoint="support.gloo_tasks:build_ledger", args=(f"--doors={tmp_path}", "--at=[7]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True, wire=wire) as ranks:
        door.arrive()
        wire.cut(*ways)
        door.open()
        ranks.regroup(incarnation=2, seats=(0, 1))
        ranks.wait_for(lambda _, body: isinstance(body, Restore) and body == Restore(step=7, source="survivor"))
        ranks.processes[0].join(60)
        assert ranks.processes[0].exitcode == 0, ranks.output(0)
        assert ranks.processes[2].is_alive(), "it waits for a group that is gone"
    seen = load_file(tmp_path / "job" / "checkpoints" / "step-00000018" / "model.safetensors")["seen"]
    assert abs(seen - expected_ledger(44, 8, 18).numpy()).max() < 1e-5


def test_a_cut_heals_and_the_leader_that_was_behind_it_comes_back_as_another_rank(tmp_path: Path, wire: Wire) -> None:
    """Rank 0 is alone on its side, with the checkpoints; the two others train as the next group. When the cut heals, its
    connections tell it at once that nobody is there any more, and it takes the last seat of the third group."""
    doors = Door(tmp_path, 7), Door(tmp_path, 12)
    config = replace(TASK, entrypoint="support.gloo_tasks:build_ledger", args=(f"--doors={tmp_path}", "--at=[7,12]"))
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", regroups=True, wire=wire) as ranks:
        doors[0].arrive()
        wire.cut((0, 1), (0, 2), (1, 0), (2, 0))
        doors[0].open()
        ranks.regroup(incarnation=2, seats=(1, 2))
        doors[1].arrive()  # they have trained on meanwhile
        wire.cut()
        holding(ranks, 0)
        ranks.hold(incarnation=3)
        doors[1].open()
        ranks.regroup(incarnation=3, seats=(1, 2, 0))
        assert ranks.ended() == [0] * WORLD, ranks.output(1)
    none, second, third = ranks.told.restores
    assert (none.source, second) == ("none", Restore(step=7, source="survivor"))
    assert third.source == "survivor" and third.step in (11, 12)  # step 7 counts twice where it was begun twice
    assert [(c.step, c.incarnation) for c in ranks.told.checkpoints] == [(18, 3)]
    seen = load_file(tmp_path / "job" / "checkpoints" / "step-00000018" / "model.safetensors")["seen"]
    assert abs(seen - expected_ledger(44, 8, 18).numpy()).max() < 1e-5


def test_a_gradient_that_changes_on_its_way_is_seen_before_anything_is_saved(tmp_path: Path, wire: Wire) -> None:
    """Behind the checksum of TCP nothing looks at the bytes again, but the replicas are not the same any more."""
    wire.weather = noise = Noise(1)
    door = Door(tmp_path, 7)
    config = replace(
        TASK, args=(*TASK.args, "--width=40000", "--norm=false", f"--doors={tmp_path}", "--at=[7]", "--rank=1")
    )
    with Ranks(tmp_path / "logs", config, WORLD, job_dir=tmp_path / "job", wire=wire) as ranks:
        door.arrive()
        noise.on = True
        door.open()
        assert ranks.ended() == [1] * WORLD, ranks.output(0)
    assert noise.changed
    classes = [ranks.told.failure(rank).failure_class for rank in range(WORLD)]
    assert FailureClass.DIVERGENCE in classes and set(classes) <= {FailureClass.DIVERGENCE, FailureClass.NETWORK}
    assert ranks.told.checkpoints == []
