"""Exit codes, names and paths: small, and relied on by everybody."""

from __future__ import annotations

import pytest

from disttrain_contract import exits, names, paths


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exit code 1"),
        (exits.from_signal(9), "exit code 137 (SIGKILL)"),
        (exits.from_signal(64), "exit code 192 (SIGRTMAX)"),
        (exits.from_signal(33), "exit code 161 (signal 33)"),
        (exits.Exit.USER_ERROR, "exit code 64 (the job cannot run as written)"),
        (exits.Exit.STORAGE_ERROR, "exit code 74 (the checkpoint volume cannot be used)"),
    ],
)
def test_an_exit_code_reads_as_a_person_would_say_it(code: int, words: str) -> None:
    assert exits.describe(code) == words


def test_the_longest_name_still_makes_a_host_name() -> None:
    job = "j" * names.MAX_JOB_NAME
    assert len(names.pod_name(job, 999_999_999)) <= 63
    assert len(names.claim_name(job)) <= 253


def test_step_directories_sort_like_their_steps() -> None:
    steps = [10, 9, 100_000, 1]
    assert sorted(map(paths.step_dir_name, steps)) == [paths.step_dir_name(s) for s in sorted(steps)]


def test_a_jobs_logs_are_found_by_incarnation_and_rank() -> None:
    where = paths.log_file(paths.job_dir(paths.CHECKPOINT_MOUNT, "mnist"), incarnation=3, rank=11)
    assert str(where) == "/checkpoints/mnist/logs/incarnation-0003/rank-11.log"
