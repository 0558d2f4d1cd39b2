from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from disttrain_operator.shell.errors import ClusterError
from disttrain_operator.workqueue import MAX_BACKOFF, Handled, WorkQueue, backoff

Handle = Callable[[str], Awaitable[float | None]]


class Rig:
    """Runs a queue until `done` is set by a handler."""

    def __init__(self, handle: Handle, concurrency: int = 4) -> None:
        self.handled: list[Handled] = []
        self.done = asyncio.Event()
        self.waits: list[int] = []
        self.queue: WorkQueue[str] = WorkQueue(
            handle, on_handled=self.handled.append, concurrency=concurrency, delay=self.delay
        )

    def delay(self, failures: int) -> float:
        self.waits.append(failures)
        return 0.005

    async def run(self) -> None:
        work = asyncio.create_task(self.queue.run())
        try:
            await asyncio.wait_for(self.done.wait(), 10)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def test_a_burst_is_one_pass_after_the_present_one() -> None:
    calls = 0

    async def handle(key: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            for _ in range(100):
                rig.queue.add(key)
        else:
            asyncio.get_running_loop().call_later(0.02, rig.done.set)

    rig = Rig(handle)
    for _ in range(100):
        rig.queue.add("a")
    await rig.run()
    assert calls == 2


async def test_one_key_is_never_handled_twice_at_once_but_many_keys_are() -> None:
    running: list[str] = []
    most = 0

    async def handle(key: str) -> None:
        nonlocal most
        assert key not in running
        running.append(key)
        most = max(most, len(running))
        rig.queue.add(key)
        await asyncio.sleep(0.002)
        running.remove(key)
        if len(rig.handled) > 40:
            rig.done.set()

    rig = Rig(handle)
    for key in "abcdefgh":
        rig.queue.add(key)
    await rig.run()
    assert most == 4, "as many as the limit allows"


async def test_a_pass_says_when_its_key_is_due_again() -> None:
    calls = 0

    async def handle(key: str) -> float | None:
        nonlocal calls
        calls += 1
        if calls == 3:
            rig.done.set()
        return 0.005

    rig = Rig(handle)
    rig.queue.add("a")
    await rig.run()
    assert calls == 3


async def test_failures_back_off_and_success_forgets_them() -> None:
    calls = 0

    async def handle(key: str) -> float | None:
        nonlocal calls
        calls += 1
        if calls in (1, 2, 3, 5):
            raise ClusterError("down")
        if calls == 6:
            rig.done.set()
        return 0.001

    rig = Rig(handle)
    rig.queue.add("a")
    await rig.run()
    assert rig.waits == [1, 2, 3, 1]
    assert [h.result for h in rig.handled][:4] == ["error", "error", "error", "success"]


async def test_events_do_not_break_a_back_off() -> None:
    times: list[float] = []

    async def handle(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            rig.done.set()
            return
        asyncio.get_running_loop().call_later(0.01, rig.queue.add, key)
        raise ClusterError("down")

    rig = Rig(handle)
    rig.delay = lambda failures: 0.1  # type: ignore[method-assign]
    rig.queue._delay = lambda failures: 0.1
    rig.queue.add("a")
    await rig.run()
    assert times[1] - times[0] >= 0.09


async def test_the_server_may_ask_for_a_longer_wait() -> None:
    times: list[float] = []

    async def handle(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise ClusterError("slow down", code=429, retry_after=0.1)
        rig.done.set()

    rig = Rig(handle)
    rig.queue.add("a")
    await rig.run()
    assert times[1] - times[0] >= 0.09


async def test_a_defect_in_one_job_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(key: str) -> None:
        if key == "bad":
            raise ZeroDivisionError
        rig.done.set()

    rig = Rig(handle, concurrency=1)
    rig.queue.add("bad")
    rig.queue.add("good")
    await rig.run()
    assert rig.handled[0].result == "defect" and "ZeroDivisionError" in caplog.text


async def test_what_waits_and_what_hangs_has_an_age() -> None:
    time = 0.0
    hanging = asyncio.Event()

    async def handle(key: str) -> None:
        hanging.set()
        await asyncio.Event().wait()

    queue: WorkQueue[str] = WorkQueue(handle, concurrency=1, clock=lambda: time)
    assert (queue.depth, queue.oldest_seconds) == (0, 0.0)
    queue.add("a")
    time = 5.0
    assert (queue.depth, queue.oldest_seconds) == (1, 5.0)
    work = asyncio.create_task(queue.run())
    await hanging.wait()
    time = 65.0
    assert (queue.depth, queue.oldest_seconds) == (0, 60.0)
    work.cancel()


def test_the_back_off_doubles_up_to_its_limit_and_is_spread() -> None:
    assert [backoff(n, 1.0) for n in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert backoff(1000, 1.0) == MAX_BACKOFF
    assert backoff(4, 0.0) == backoff(4, 1.0) / 2
