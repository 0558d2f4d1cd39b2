"""When to dial again. The stream itself is tried against a real hub in test_dialling."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract.messages import LEASE_SECONDS
from disttrain_runtime.agent.stream import retry_delay


@given(st.integers(0, 10**6), st.booleans(), st.floats(0, 1))
def test_an_agent_is_never_away_longer_than_a_lease(failures: int, not_leader: bool, fraction: float) -> None:
    assert 0 <= retry_delay(failures, not_leader, fraction) < LEASE_SECONDS


def test_it_waits_longer_the_more_often_it_failed() -> None:
    delays = [retry_delay(failures, False, 1.0) for failures in range(12)]
    assert delays == sorted(delays) and delays[0] < 0.2 and delays[-1] > 3


def test_a_replica_that_does_not_lead_is_no_reason_to_wait_long() -> None:
    assert all(retry_delay(n, True, 1.0) < retry_delay(n, False, 1.0) for n in range(12))
