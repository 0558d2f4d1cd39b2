"""numpy computes with the threads that the rank's environment asks for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from disttrain_runtime.blas_threads import wanted


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"OPENBLAS_NUM_THREADS": "many", "GOTO_NUM_THREADS": " 4 "}, 4),
    ],
)
def test_openblas_own_rule(environment: Mapping[str, str], threads: int) -> None:
    assert wanted(environment, cpus=8) == threads
