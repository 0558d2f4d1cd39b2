"""What is spent, as numbers: opacus says the same, and nothing is counted twice or forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("opacus")

import dp_accounting
from hypothesis import given
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant

from disttrain_runtime.errors import EntrypointError, StorageError
from disttrain_runtime.privacy import Span, affordable, epsilon, merged, noise_seed, poisson, reserve
from disttrain_runtime.privacy_ledger import Book, Ledger, decode

pytestmark = pytest.mark.torch

SPAN = Span(run="a", world_size=2, noise_multiplier=1.0, sample_rate=0.05)
SECRET = b"x" * 32


def span(first: int, end: int, run: str = "a", world: int = 2) -> Span:
    return Span(run=run, world_size=world, noise_multiplier=1.0, sample_rate=0.05, first=first, end=end)


@pytest.mark.parametrize("steps", [1, 10, 1000])
@pytest.mark.parametrize(("noise", "rate"), [(0.6, 0.01), (1.0, 0.2), (4.0, 1.0)])
def test_epsilon_is_that_of_opacus(noise: float, rate: float, steps: int) -> None:
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    mine = Span(run="a", world_size=1, noise_multiplier=noise, sample_rate=rate, end=steps)
    assert epsilon([mine], 1e-5) == pytest.approx(accountant.get_epsilon(delta=1e-5), rel=1e-12)


def test_epsilon_is_that_of_dp_accounting() -> None:
    """Google's library, with the orders of opacus."""
    event = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.0))
    orders = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
    theirs = dp_accounting.rdp.RdpAccountant(orders=orders).compose(event, 500).get_epsilon(1e-5)
    assert epsilon([span(0, 500)], 1e-5) == pytest.approx(theirs, rel=0.01)


def test_what_differs_counts_together_as_opacus_composes_it() -> None:
    accountant = RDPAccountant()
    accountant.history = [(1.0, 0.05, 100), (2.0, 0.05, 50)]
    other = Span(run="b", world_size=2, noise_multiplier=2.0, sample_rate=0.05, first=100, end=150)
    assert epsilon([span(0, 100), other], 1e-5) == pytest.approx(accountant.get_epsilon(delta=1e-5), rel=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from("ab"), st.integers(1, 2)), max_size=12)
)
def test_merging_keeps_exactly_the_steps_that_were_run(runs: list[tuple[int, int, str, int]]) -> None:
    spans = [span(first, end, run, world) for first, end, run, world in runs]
    steps = {(s.run, s.world_size, step) for s in spans for step in range(s.first, s.end)}
    found = merged(spans)
    kept = [(s.run, s.world_size, step) for s in found for step in range(s.first, s.end)]
    assert sorted(kept) == sorted(steps)
    assert merged(reversed(found)) == found


def test_nothing_is_spent_before_the_first_step() -> None:
    assert epsilon([], 1e-5) == epsilon([span(3, 3)], 1e-5) == 0.0


def test_the_last_affordable_step_is_within_the_target_and_the_next_one_is_not() -> None:
    target = 3.0
    last = affordable([], SPAN, 10_000, 1e-5, target)
    assert epsilon([span(0, last)], 1e-5) <= target < epsilon([span(0, last + 1)], 1e-5)
    spent = [span(0, last, run="before")]
    assert affordable(spent, SPAN, 10_000, 1e-5, target) == 0, "what another run has spent is spent"


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_reservation_covers_the_step_that_begins_and_little_more(step: int, limit: int) -> None:
    reserved = reserve(step, limit)
    assert step < reserved <= max(step + 1, limit)
    assert reserved - step - 1 <= step / 64


def test_samples_are_drawn_with_the_rate_and_anew_in_every_step() -> None:
    drawn = [poisson(SECRET, SPAN, step, 2000) for step in range(50)]
    assert sum(map(len, drawn)) / 50 == pytest.approx(100, rel=0.1)
    assert len({len(d) for d in drawn}) > 5, "a batch's size is chance, too"
    assert len(set(drawn)) == 50
    assert drawn[3] == poisson(SECRET, SPAN, 3, 2000)
    seen = [sum(i in d for d in map(set, drawn)) for i in range(2000)]
    assert sum(n > 2 for n in seen) / 2000 == pytest.approx(0.459, abs=0.05), "as Binomial(50, 0.05) has it"


def test_sample_and_noise_depend_on_the_secret_and_on_all_that_changes_a_step() -> None:
    others = [(b"y" * 32, SPAN), (SECRET, span(0, 0, run="b")), (SECRET, span(0, 0, world=3))]
    for secret, other in others:
        assert noise_seed(secret, other, 1) != noise_seed(SECRET, SPAN, 1)
        assert poisson(secret, other, 1, 500) != poisson(SECRET, SPAN, 1, 500)
    assert noise_seed(SECRET, span(5, 9), 7) == noise_seed(SECRET, span(0, 99), 7), "where a run began is no matter"


def test_the_ledger_is_there_again_and_grows(tmp_path: Path) -> None:
    opened = Ledger(tmp_path).open(0)
    assert (len(opened.secret), opened.spans) == (32, ())
    Ledger(tmp_path).add(span(0, 10))
    Ledger(tmp_path).add(span(5, 20))
    assert Ledger(tmp_path).open(20) == Book(opened.secret, (span(0, 20),))
    assert (tmp_path / "privacy.json").stat().st_mode & 0o777 == 0o600


def test_a_leftover_that_writes_late_takes_nothing_away(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open(0)
    ledger.add(span(0, 100, world=3))
    ledger.add(span(0, 7))
    assert set(decode((tmp_path / "privacy.json").read_bytes()).spans) == {span(0, 100, world=3), span(0, 7)}


def test_a_ledger_that_is_gone_or_damaged_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(EntrypointError, match="cannot go on from one without"):
        Ledger(tmp_path).open(5)
    (tmp_path / "privacy.json").write_text('{"secret": "00"')
    with pytest.raises(StorageError, match="cannot be read"):
        Ledger(tmp_path).open(5)
