"""Formulas of the docs pages, worked out by hand."""

from __future__ import annotations

import pytest
from benchmarks.strategies import formulas
from benchmarks.strategies.formulas import Sizes
from benchmarks.strategies.formulas_mesh import Grid, mesh
from benchmarks.strategies.rows import ROWS, chosen_rows, named

THREE = Sizes(shapes=((100, 50), (100,)), ranks=3, batch=12)
"""5,100 parameters: 20,400 bytes."""


@pytest.mark.parametrize(
    ("formula", "sent"),
    [
        (formulas.all_reduce, 27_200),
        (formulas.half, 13_600),
        (formulas.top_k(0.01), 2 * 8 * 51),
        (formulas.sign, 2 * (638 + 4)),
        (formulas.power_sgd(2), 4 / 3 * 4 * (2 * 150 + 100)),
        (formulas.parameter_server(16), 2 / 3 * 20_400 * 2.125),
        (formulas.averaging(8), 27_200 * 3 / 8),
        (formulas.averaging(16, moments=0), 27_200 / 16),
        (formulas.round_robin(4), 20_400 * 2 / 3 / 4),
        (formulas.gossip(1, 16), 20_400 + 27_200 / 16),
        (formulas.fsdp, 40_800),
        (formulas.tensor([50]), 4 / 3 * 4 * 12 * 50),
        (formulas.pipeline([50, 100]), 2 * 4 * 12 * 150 / 3),
    ],
)
def test_bytes_of_three_ranks(formula: formulas.Formula, sent: float) -> None:
    assert formula(THREE) == pytest.approx(sent)


def test_a_hybrid_of_four_ranks_talks_inside_a_worker_and_between_two() -> None:
    four = Sizes(shapes=((100,),), ranks=4, batch=8)
    assert formulas.hybrid(2)(four) == pytest.approx(3 / 2 * 400 + 400 / 2)


def test_a_matrix_that_would_not_shrink_travels_as_it_is() -> None:
    assert formulas.min_rate_pays(10, 4, 2, 2) == 40
    assert formulas.min_rate_pays(10, 40, 2, 2) == 100


def test_more_microbatches_and_more_runs_of_layers_make_the_bubble_smaller() -> None:
    assert formulas.bubble(4, 8) == pytest.approx(3 / 11)
    assert formulas.bubble(4, 8, chunks=2) == pytest.approx(3 / 19)
    assert formulas.bubble(1, 8) == 0
    assert formulas.bubble_v(4, 8) == pytest.approx(3 / 51)


def test_off_is_signed() -> None:
    assert formulas.off(102, 100) == pytest.approx(0.02)
    assert formulas.off(99, 100) == pytest.approx(-0.01)


def test_rows_are_chosen_in_the_order_of_the_table() -> None:
    assert [row.name for row in chosen_rows(["sign", "allReduce"])] == ["allReduce", "sign"]
    assert chosen_rows(None) == list(ROWS)
    assert named("gossip").bare == "gossip"
    with pytest.raises(SystemExit, match="morse"):
        chosen_rows(["morse"])


def test_a_grid_adds_up_its_axes_each_over_its_own_ranks() -> None:
    """Eight ranks: each has a quarter of the parameters and sees half of the samples."""
    eight = Sizes(shapes=((100, 50), (100,)), ranks=8, batch=12)
    layers, cut, replicas = 4 * 6 * 150 / 2, 2 * 4 * 6 * 50 / 2, 20_400 / 4
    assert mesh(Grid(2, 2, 2), [50] * 3, [50])(eight) == pytest.approx(layers + cut + replicas)


def test_a_grid_of_one_axis_is_that_axis() -> None:
    assert mesh(Grid(3, 1, 1), [50], [])(THREE) == pytest.approx(formulas.all_reduce(THREE))
    without = Sizes(shapes=(), ranks=3, batch=12)
    assert mesh(Grid(1, 1, 3), [50], [])(without) == pytest.approx(formulas.tensor([50])(without))
    assert mesh(Grid(1, 3, 1), [], [50, 100])(without) == pytest.approx(formulas.pipeline([50, 100])(without))


def test_every_row_has_a_bare_loop_and_a_name_of_its_own() -> None:
    loops = pytest.importorskip("benchmarks.strategies.loops")
    assert {row.bare for row in ROWS} == loops.LOOPS.keys()
    assert len({row.name for row in ROWS}) == len(ROWS)
