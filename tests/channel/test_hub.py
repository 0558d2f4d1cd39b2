"""The operator's end of the stream, over real TLS sockets: who gets in, what is believed, what wakes the planner."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.channel.rig import PATIENCE, Proxy, Rig, pod
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import (
    LEASE_SECONDS,
    MAX_MESSAGE_BYTES,
    AgentState,
    Assignment,
    Failure,
    Membership,
    Progress,
    Report,
    decode_assignment,
    encode,
)
from disttrain_operator.channel import connection as limits
from disttrain_operator.channel import hub as hub_module

IDLE = Report(incarnation=0, state=AgentState.IDLE)
RUNNING = Report(incarnation=1, state=AgentState.RUNNING, processes=2)
FAILURE = Failure(rank=1, local_rank=1, exit_code=1, failure_class=FailureClass.CODE, message="ValueError: no")
FAILED = replace(RUNNING, state=AgentState.FAILED, failure=FAILURE)
MEMBERS = Membership(incarnation=1, workers=1, processes_per_worker=2, master_addr="10.0.0.1", master_port=29501)
ASSIGNMENT = Assignment(job_uid="j", incarnation=1, membership=MEMBERS)


@asynccontextmanager
async def agent(rig: Rig, name: str = "a", port: int | None = None, **options: Any) -> AsyncIterator[ClientConnection]:
    """A connection as an agent makes it."""
    headers = {"Authorization": options.pop("authorization", f"Bearer token-of-{name}")}
    where = f"wss://127.0.0.1:{port or rig.port}/v1/stream"
    options = {"ping_interval": 0.5, "close_timeout": 0.2, "compression": None, "proxy": None} | options
    async with connect(where, ssl=rig.certificates.client(), additional_headers=headers, **options) as stream:
        yield stream


async def received(stream: ClientConnection) -> Assignment:
    async with asyncio.timeout(PATIENCE):
        return decode_assignment(await stream.recv())


async def close_of(stream: ClientConnection) -> tuple[int, str]:
    """How the hub ended the stream."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await stream.recv()
    frame = closed.value.rcvd
    return (frame.code, frame.reason) if frame else (0, "")


async def test_a_report_is_what_the_planner_sees(rig: Rig) -> None:
    assert rig.view("a") == hub_module.AgentView()
    async with agent(rig) as stream:
        await rig.until(lambda: rig.view("a").connected)
        await stream.send(encode(FAILED))
        await rig.until(lambda: rig.view("a").report)
        view = rig.view("a")
        assert view.report == FAILED and view.connected and not view.lost
        assert view.report_age is not None and view.report_age < PATIENCE
    await rig.until(lambda: not rig.view("a").connected)
    assert rig.view("a").report == FAILED, "the last word outlives the stream"
    assert {identity.name for identity in rig.changes} == {"a"}


async def test_an_assignment_is_pushed_once_until_it_changes(rig: Rig) -> None:
    assert not rig.hub.assign(pod("a").uid, ASSIGNMENT)
    async with agent(rig) as stream:
        await rig.until(lambda: rig.view("a").connected)
        for _ in range(3):
            assert rig.hub.assign(pod("a").uid, ASSIGNMENT)
        assert await received(stream) == ASSIGNMENT
        rig.hub.assign(pod("a").uid, ASSIGNMENT)
        await (await stream.ping())  # what was sent before has arrived
        rig.hub.assign(pod("a").uid, replace(ASSIGNMENT, stop="suspended"))
        assert (await received(stream)).stop == "suspended"
    async with agent(rig) as stream:
        await rig.until(lambda: rig.hub.assign(pod("a").uid, ASSIGNMENT))
        assert await received(stream) == ASSIGNMENT, "a new connection knows nothing yet"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer forged", "token-of-a", "Bearer token-of-\xe9"])
async def test_without_a_valid_token_nobody_gets_in(rig: Rig, header: str) -> None:
    rig.known = lambda name: name == "b"
    with pytest.raises(InvalidStatus) as refused:
        async with agent(rig, authorization=header):
            pass
    assert refused.value.response.status_code == 401
    assert rig.hub.connected == 0 and not rig.changes


async def test_a_good_token_is_reviewed_once_a_bad_one_every_time(rig: Rig) -> None:
    for _ in range(3):
        async with agent(rig):
            pass
    assert rig.reviews == 1
    for _ in range(3):
        with suppress(InvalidStatus):
            async with agent(rig, authorization="Bearer forged"):
                pass
    assert rig.reviews == 4


async def test_when_the_review_fails_the_agent_is_told_to_come_back(rig: Rig) -> None:
    rig.broken = True
    with pytest.raises(InvalidStatus) as refused:
        async with agent(rig):
            pass
    assert refused.value.response.status_code == 503


async def test_a_replica_that_does_not_lead_sends_agents_on(rig: Rig) -> None:
    rig.leader = False
    with pytest.raises(InvalidStatus) as refused:
        async with agent(rig):
            pass
    assert refused.value.response.status_code == 503
    assert rig.reviews == 0, "and asks nobody who they are"


async def test_a_leader_that_is_deposed_lets_go_and_forgets(rig: Rig) -> None:
    async with agent(rig) as stream:
        await stream.send(encode(RUNNING))
        await rig.until(lambda: rig.view("a").report)
        rig.leader = False
        await close_of(stream)
        assert rig.view("a") == hub_module.AgentView(), "another replica may know better by the time it leads again"


async def test_of_two_streams_of_one_pod_the_newer_wins(rig: Rig) -> None:
    async with agent(rig, ping_interval=None) as old:  # half-open: it will never say a word again
        await old.send(encode(RUNNING))
        await rig.until(lambda: rig.view("a").report == RUNNING)
        async with agent(rig) as new:
            await close_of(old)
            await new.send(encode(FAILED))
            await rig.until(lambda: rig.view("a").report == FAILED)
            assert rig.view("a").connected and rig.hub.connected == 1
            assert rig.hub.assign(pod("a").uid, ASSIGNMENT)
            assert await received(new) == ASSIGNMENT


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        ("not json", 1007),
        ("[" * 60_000, 1007),
        ('{"incarnation": "many", "state": "idle"}', 1007),
        ("x" * (MAX_MESSAGE_BYTES + 1), 1009),
        (b"\x00\x01", 1003),
    ],
)
async def test_garbage_ends_the_stream_with_a_reason_and_costs_a_pause(
    rig: Rig, garbage: str | bytes, code: int
) -> None:
    async with agent(rig, "bad") as bad, agent(rig, "good") as good:
        await bad.send(encode(RUNNING))
        await rig.until(lambda: rig.view("bad").report)
        await bad.send(garbage)
        assert (await close_of(bad))[0] == code
        assert rig.view("bad").report == RUNNING, "the last good word stands"
        with pytest.raises(InvalidStatus) as refused:
            async with agent(rig, "bad"):
                pass
        assert refused.value.response.status_code == 429
        await good.send(encode(FAILED))
        await rig.until(lambda: rig.view("good").report == FAILED)


async def test_of_a_flood_of_reports_the_last_one_is_what_counts(rig: Rig) -> None:
    async with agent(rig) as stream:
        many = limits.MAX_FRAMES - 10  # below what ends the stream
        for step in range(many):
            await stream.send(encode(replace(RUNNING, incarnation=step)))
        await rig.until(lambda: (report := rig.view("a").report) and report.incarnation == many - 1)
        assert len(rig.changes) < many / 2


async def test_a_flood_of_frames_ends_the_stream(rig: Rig) -> None:
    async with agent(rig) as stream:
        with suppress(ConnectionClosed):
            for _ in range(50 * limits.MAX_FRAMES):
                await stream.ping()
        assert (await close_of(stream))[0] == 1008


async def test_the_first_step_of_a_group_is_news_at_once(rig: Rig) -> None:
    async with agent(rig) as stream:
        await stream.send(encode(RUNNING))
        await rig.until(lambda: rig.view("a").report)
        before = len(rig.changes)
        await stream.send(encode(replace(RUNNING, progress=Progress(step=7))))
        await (await stream.ping())
        assert len(rig.changes) == before + 1


async def test_progress_alone_wakes_the_planner_seldom_but_in_the_end(rig: Rig) -> None:
    async with agent(rig) as stream:
        await stream.send(encode(replace(RUNNING, progress=Progress(step=0))))
        await rig.until(lambda: rig.view("a").report)
        before = len(rig.changes)
        for step in range(10):
            await stream.send(encode(replace(RUNNING, progress=Progress(step=step))))
        await (await stream.ping())
        assert len(rig.changes) == before
        report = rig.view("a").report
        assert report and report.progress and report.progress.step == 9, "although it can be read at once"
        await rig.until(lambda: len(rig.changes) > before)
        assert len(rig.changes) == before + 1


async def test_an_older_failure_is_no_news(rig: Rig) -> None:
    async with agent(rig) as stream:
        await stream.send(encode(FAILED))
        await rig.until(lambda: rig.view("a").report)
        before = len(rig.changes)
        await stream.send(encode(replace(FAILED, failure=replace(FAILURE, seconds_ago=3.0))))
        await (await stream.ping())
        assert len(rig.changes) == before


async def test_a_silent_peer_loses_its_lease_and_the_planner_hears_of_it(rig: Rig) -> None:
    proxy = Proxy(rig.port)
    async with agent(rig, port=await proxy.start(), ping_interval=None) as stream:
        await stream.send(encode(RUNNING))
        await rig.until(lambda: rig.view("a").report)
        proxy.freeze()
        await rig.until(lambda: not rig.view("a").connected)
        assert (age := rig.view("a").last_heard_age) is not None and age > LEASE_SECONDS
        await rig.until(lambda: rig.view("a").lost and rig.hub.connected == 0)
        await proxy.stop()


async def test_pings_alone_keep_the_lease(rig: Rig) -> None:
    async with agent(rig, ping_interval=LEASE_SECONDS / 4):
        await rig.until(lambda: rig.view("a").connected)
        end = asyncio.get_running_loop().time() + LEASE_SECONDS * 1.3
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.2)
            assert rig.view("a").connected


async def test_an_agent_that_does_not_read_holds_up_nobody(rig: Rig) -> None:
    async with agent(rig, "slow", max_queue=1, ping_interval=None) as slow, agent(rig, "quick") as quick:
        slow.transport.pause_reading()
        await rig.until(lambda: rig.hub.connected == 2)
        big = replace(ASSIGNMENT, stop="x" * 60_000)
        for number in range(200):  # 12 MB: more than all buffers on the way
            rig.hub.assign(pod("slow").uid, replace(big, incarnation=number))
        rig.hub.assign(pod("quick").uid, ASSIGNMENT)
        assert await received(quick) == ASSIGNMENT


async def test_a_forgotten_pod_is_gone(rig: Rig) -> None:
    async with agent(rig) as stream:
        await stream.send(encode(RUNNING))
        await rig.until(lambda: rig.view("a").report)
        rig.hub.forget(pod("a").uid)
        await close_of(stream)
        assert rig.view("a") == hub_module.AgentView()


async def test_a_planner_that_raises_ends_no_stream(rig: Rig) -> None:
    rig.changes = None  # type: ignore[assignment]  # on_change fails from now on
    async with agent(rig) as stream:
        await stream.send(encode(RUNNING))
        await rig.until(lambda: rig.view("a").report == RUNNING)
        assert rig.view("a").connected


@pytest.mark.parametrize("opening", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01garbage", b"\x00" * 5000])
async def test_a_stranger_that_does_not_speak_tls_disturbs_nobody(rig: Rig, opening: bytes) -> None:
    with socket.create_connection(("127.0.0.1", rig.port)) as stranger:
        stranger.sendall(opening)
        async with agent(rig) as stream:
            await stream.send(encode(RUNNING))
            await rig.until(lambda: rig.view("a").report == RUNNING)


async def test_a_plain_request_is_answered_not_crashed(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", rig.port, ssl=rig.certificates.client(), server_hostname="127.0.0.1"
    )
    writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()


async def test_pods_that_nobody_asks_about_are_forgotten_in_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent(rig):
        await rig.until(lambda: rig.view("a").connected)
    await rig.until(lambda: not rig.view("a").connected)
    monkeypatch.setattr(hub_module, "FORGET_SECONDS", 0.0)
    await rig.until(lambda: rig.view("a") == hub_module.AgentView())


async def test_how_long_it_leads_tells_whether_silence_means_anything(rig: Rig) -> None:
    await rig.until(lambda: rig.hub.leading_seconds is not None)
    rig.leader = False
    await rig.until(lambda: rig.hub.leading_seconds is None)
    rig.leader = True
    await rig.until(lambda: rig.hub.leading_seconds is not None)


async def test_after_a_restart_on_the_same_port_everybody_is_heard_again(rig: Rig) -> None:
    async with agent(rig) as stream:
        await rig.until(lambda: rig.view("a").connected)
        await rig.restart()
        await close_of(stream)
    assert rig.view("a") == hub_module.AgentView()
    async with agent(rig):
        await rig.until(lambda: rig.view("a").connected)


async def test_many_agents_at_once(rig: Rig) -> None:
    async def one(number: int) -> None:
        async with agent(rig, f"pod-{number}") as stream:
            await stream.send(encode(replace(RUNNING, incarnation=number)))
            await rig.until(lambda: rig.hub.assign(pod(f"pod-{number}").uid, replace(ASSIGNMENT, incarnation=number)))
            assert (await received(stream)).incarnation == number
            await rig.until(lambda: rig.view(f"pod-{number}").report)

    await asyncio.gather(*(one(number) for number in range(40)))
    for number in range(40):
        report = rig.view(f"pod-{number}").report
        assert report and report.incarnation == number
