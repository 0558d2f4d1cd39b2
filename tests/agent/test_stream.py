"""When to dial again, and when a report has arrived. All else is tried with a whole agent in test_dialling."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath

from hypothesis import given
from hypothesis import strategies as st
from tests.channel.rig import Rig

from disttrain_contract.messages import LEASE_SECONDS, AgentState, Report
from disttrain_runtime.agent.stream import Dial, Stream, retry_delay


@given(st.integers(0, 10**6), st.booleans(), st.floats(0, 1))
def test_an_agent_is_never_away_longer_than_a_lease(failures: int, not_leader: bool, fraction: float) -> None:
    assert 0 <= retry_delay(failures, not_leader, fraction) < LEASE_SECONDS


def test_it_waits_longer_the_more_often_it_failed() -> None:
    delays = [retry_delay(failures, False, 1.0) for failures in range(12)]
    assert delays == sorted(delays) and delays[0] < 0.2 and delays[-1] > 3


def test_a_replica_that_does_not_lead_is_no_reason_to_wait_long() -> None:
    assert all(retry_delay(n, True, 1.0) < retry_delay(n, False, 1.0) for n in range(12))


async def test_a_flushed_report_has_been_read(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token-of-a")
    present = Report(incarnation=1, state=AgentState.RUNNING)
    dial = Dial(f"wss://localhost:{rig.port}", rig.certificates.ca, PurePosixPath(tmp_path / "token"))
    stream = Stream(dial, lambda: present, lambda _: None, lambda _: None)
    running = asyncio.create_task(stream.run())
    assert not await stream.flush(0.0), "it has not even dialled"
    await rig.until(lambda: rig.view("a").report == present)
    present = Report(incarnation=1, state=AgentState.FINISHED)
    assert await stream.flush(20.0)
    assert rig.view("a").report == present
    running.cancel()
