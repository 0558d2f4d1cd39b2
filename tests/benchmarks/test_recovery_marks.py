"""What the marks of a run say: when a fault was over, and whether every sample was seen once."""

from __future__ import annotations

from pathlib import Path

from benchmarks.recovery.marks import Mark, Marks, Recovery, Writer, finished, ledger, recovery

SECOND = 10**9
EPOCH, SAMPLES = 2, 6


def step(number: int, at: float, ranks: dict[int, int], *, digest: str = "-", world: int | None = None) -> list[Mark]:
    """Ranks (by rank: process) finish a step within a few milliseconds; each sees one sample of it."""
    size = world or 3
    first = (number - 1) % EPOCH * 3
    return [
        Mark(number, rank, size, pid, int((at + 0.001 * i) * SECOND), digest, (first + rank,))
        for i, (rank, pid) in enumerate(ranks.items())
    ]


OLD = {0: 10, 1: 11, 2: 12}
ALL_NEW = {0: 20, 1: 21, 2: 22}
ONE_NEW = {0: 10, 1: 21, 2: 12}


def seen(found: Recovery | None) -> tuple[float, float, float, int]:
    assert found is not None
    return found.again_at, found.new_at, found.full_at, found.recomputed


def test_a_group_that_goes_back_to_a_checkpoint_is_back_when_it_has_passed_where_it_was() -> None:
    marks = step(5, 1.0, OLD) + step(6, 2.0, OLD) + step(5, 5.0, ALL_NEW) + step(6, 6.0, ALL_NEW)
    assert recovery(marks, 3 * SECOND, 1) is None, "step 6 was finished before"
    found = recovery(marks + step(7, 7.0, ALL_NEW), 3 * SECOND, 1)
    assert seen(found) == (2.002, 4.002, 4.002, 2)


def test_survivors_that_finish_the_step_under_way_have_not_recovered() -> None:
    marks = step(5, 1.0, OLD) + step(6, 2.0, {0: 10, 2: 12})
    assert recovery(marks, int(1.5 * SECOND), 1) is None
    found = recovery(marks + step(7, 3.0, ONE_NEW), int(1.5 * SECOND), 1)
    assert seen(found) == (1.502, 1.502, 1.502, 0)


def test_a_step_that_one_rank_had_finished_before_the_fault_is_not_new() -> None:
    marks = step(5, 1.0, OLD) + step(6, 2.0, {0: 10}) + step(6, 4.0, ONE_NEW)
    found = recovery(marks + step(7, 5.0, ONE_NEW), 3 * SECOND, 1)
    assert found is not None and (found.before, found.again_step, found.new_at) == (6, 6, 2.002)


def test_a_smaller_group_is_new_but_not_full() -> None:
    marks = step(5, 1.0, OLD) + step(6, 3.0, {0: 10, 2: 12}, world=2) + step(7, 6.0, ONE_NEW)
    assert seen(recovery(marks, 2 * SECOND, 1)) == (1.001, 1.001, 4.002, 0)


def test_a_step_is_finished_when_the_last_of_its_ranks_says_so() -> None:
    assert finished(step(1, 1.0, OLD) + step(2, 2.0, {0: 10, 1: 11})) == [(int(1.002 * SECOND), 1, 3)]


def test_each_sample_once_whatever_was_run_again() -> None:
    marks = (
        step(1, 1.0, OLD) + step(2, 2.0, OLD, digest="a") + step(2, 3.0, ALL_NEW, digest="a") + step(3, 4.0, ALL_NEW)
    )
    book = ledger(marks, EPOCH, SAMPLES)
    assert (book.doubled, book.missed, book.changed, book.unwitnessed, book.replicas_differ) == (0, 0, 0, 0, 0)
    assert book.digests == {2: "a"}


def test_a_sample_that_is_seen_twice_is_counted_and_so_is_the_one_that_it_took_the_place_of() -> None:
    wrong = Mark(2, 2, 3, 12, 2 * SECOND, "-", (0,))
    book = ledger(step(1, 1.0, OLD) + step(2, 2.0, {0: 10, 1: 11}) + [wrong], EPOCH, SAMPLES)
    assert (book.doubled, book.missed) == (1, 1)


def test_a_step_that_is_run_again_with_other_samples_is_counted() -> None:
    other = [Mark(2, m.rank, 3, m.pid, m.at, "-", (m.samples[0] ^ 1,)) for m in step(2, 3.0, ALL_NEW)]
    assert ledger(step(1, 1.0, OLD) + step(2, 2.0, OLD) + other, EPOCH, SAMPLES).changed == 1


def test_a_mark_that_its_rank_could_not_leave_is_no_missed_sample() -> None:
    book = ledger(step(1, 1.0, OLD) + step(2, 2.0, {0: 10, 2: 12}), EPOCH, SAMPLES)
    assert (book.missed, book.unwitnessed) == (0, 1)


def test_replicas_that_differ_are_found() -> None:
    marks = step(2, 1.0, {0: 10, 1: 11}, digest="a") + step(2, 1.0, {2: 12}, digest="b")
    assert ledger(marks, EPOCH, SAMPLES).replicas_differ == 1


def test_what_is_written_is_read_even_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    marks = Marks(file)
    assert marks.refresh().newest == 0
    Writer(str(file)).write(7, 1, 3, "", [4, 5])
    whole = file.read_bytes()
    file.write_bytes(whole[:5])
    assert not marks.refresh().all
    file.write_bytes(whole)
    mark = marks.refresh().all[0]
    assert (mark.step, mark.rank, mark.world, mark.digest, mark.samples) == (7, 1, 3, "-", (4, 5))
    assert marks.pid(1) == mark.pid
