"""Measure both ends of the stream: `python benchmarks/stream.py`. Prints a table; asserts nothing.

Hub: resident memory of the operator's end with thousands of TLS agents that heartbeat, and its share of a core.
Agent: seconds from exec to the hello at the operator, resident memory, and from SIGKILL of a rank to the report.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "operator"), str(ROOT / "trainer_image")]

from tests.channel.rig import Certificates, make_certificates  # noqa: E402

from disttrain_contract.env import RunConfig, WorkerEnv  # noqa: E402
from disttrain_contract.messages import (  # noqa: E402
    HEARTBEAT_SECONDS,
    AgentState,
    Assignment,
    Membership,
    Report,
    encode,
)
from disttrain_operator.channel import AgentHub, PodIdentity, StreamServer  # noqa: E402

PING = bytes([0x89, 0x80, 0, 0, 0, 0])
"""An empty, masked ping frame."""
AGENT = "import os; from disttrain_runtime.agent.entry import run_agent; from disttrain_runtime.agent.app import Places"


def resident(pid: int | str = "self") -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def frame(text: str) -> bytes:
    """A short masked text frame."""
    data = text.encode()
    return bytes([0x81, 0x80 | 126]) + len(data).to_bytes(2, "big") + bytes(4) + data


def many_agents(port: int, certificates: Certificates, count: int, ready: Pipe) -> None:
    """In another process: connections that say hello and ping, as cheap as Python can make them."""
    context = certificates.client()
    hello = frame(encode(Report(incarnation=1, state=AgentState.RUNNING)))
    streams: list[ssl.SSLSocket] = []
    beaten = time.monotonic()
    for number in range(count):
        stream = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
        stream.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Authorization: Bearer %d%s\r\n\r\n" % (number, b"." * 900)
        )
        if not stream.recv(4096).startswith(b"HTTP/1.1 101"):
            raise RuntimeError("refused")
        stream.sendall(hello)
        streams.append(stream)
        if time.monotonic() > beaten + 1:
            beat(streams)
            beaten = time.monotonic()
    ready.send(len(streams))
    while not ready.poll():
        began = time.monotonic()
        beat(streams)
        time.sleep(max(0.0, HEARTBEAT_SECONDS - (time.monotonic() - began)))


def beat(streams: list[ssl.SSLSocket]) -> None:
    """One heartbeat of everybody, answers thrown away."""
    for stream in streams:
        stream.sendall(PING)
        stream.settimeout(0)
        try:
            while stream.recv(4096):
                pass
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        stream.settimeout(10)


async def measure_hub(count: int) -> None:
    """Memory and CPU of the hub with `count` agents."""
    with tempfile.TemporaryDirectory() as where:
        certificates = make_certificates(Path(where))
        hub = AgentHub(authenticate=whose, is_leader=lambda: True, on_change=lambda _: None)
        server = StreamServer(hub, certificates.server())
        port = await server.start("127.0.0.1", 0)
        gc.collect()
        before = resident()
        here, there = multiprocessing.get_context("spawn").Pipe()
        client = multiprocessing.get_context("spawn").Process(
            target=many_agents, args=(port, certificates, count, there), daemon=True
        )
        began = time.monotonic()
        client.start()
        while not here.poll():
            await asyncio.sleep(0.05)
        here.recv()
        took = time.monotonic() - began
        gc.collect()
        await asyncio.sleep(2)
        cpu, wall = time.process_time(), time.monotonic()
        await asyncio.sleep(10)
        share = (time.process_time() - cpu) / (time.monotonic() - wall)
        used = resident() - before
        swept = time.perf_counter()
        hub.sweep()
        swept = time.perf_counter() - swept
        print(f"hub: {hub.connected} TLS agents connected in {took:.1f} s")
        print(f"hub: {used:.1f} MiB for them, {used * 1024 / count:.1f} KiB each ({before:.1f} MiB before)")
        print(f"hub: {share * 100:.0f} % of a core for their heartbeats; one sweep {swept * 1000:.1f} ms")
        here.send("stop")
        client.join(10)
        await server.stop()


async def whose(token: str) -> PodIdentity | None:
    """Everybody is somebody."""
    name = token.rstrip(".")
    return PodIdentity("team", name, f"uid-{name}")


async def measure_agent(rounds: int) -> None:
    """Start, memory, and kill to report, of a real agent under TLS."""
    starts, bares, memories, kills = [], [], [], []
    with tempfile.TemporaryDirectory() as where:
        certificates = make_certificates(Path(where))
        (Path(where) / "token").write_text("a")
        changed = asyncio.Event()
        hub = AgentHub(authenticate=whose, is_leader=lambda: True, on_change=lambda _: changed.set())
        server = StreamServer(hub, certificates.server())
        port = await server.start("127.0.0.1", 0)
        for number in range(rounds):
            hub.forget("uid-a")
            environment = agent_environment(certificates, port)
            began = time.monotonic()
            bare = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
            await bare.wait()
            bares.append(time.monotonic() - began)
            began = time.monotonic()
            agent = await asyncio.create_subprocess_exec(
                sys.executable, "-c", driver(where), env=environment, stdout=asyncio.subprocess.DEVNULL
            )
            while hub.report_of("uid-a").report is None:
                await next_change(changed)
            starts.append(time.monotonic() - began)
            memories.append(resident(agent.pid))
            members = Membership(incarnation=1, workers=1, processes_per_worker=2, master_addr="x", master_port=1)
            hub.assign("uid-a", Assignment(job_uid="u", incarnation=1, membership=members))
            ranks = await children(agent.pid, 2)
            killed = time.monotonic()
            os.kill(ranks[number % 2], signal.SIGKILL)
            while (report := hub.report_of("uid-a").report) is None or report.failure is None:
                await next_change(changed)
            kills.append(time.monotonic() - killed)
            agent.terminate()
            await agent.wait()
        await server.stop()
    show("python alone, exec to exit", bares, 1000, "ms")
    show("agent, exec to hello at the operator", starts, 1000, "ms")
    show("agent, resident when ready", memories, 1, "MiB")
    show("SIGKILL of a rank to its failure at the operator", kills, 1000, "ms")


def agent_environment(certificates: Certificates, port: int) -> dict[str, str]:
    """What the operator would write."""
    worker = WorkerEnv(
        job="j",
        job_uid="u",
        namespace="team",
        pod_name="j-0",
        pod_uid="uid-a",
        pod_ip="127.0.0.1",
        node_name="n",
        worker_index=0,
        workers=1,
        operator_url=f"wss://127.0.0.1:{port}",
        operator_ca=certificates.ca,
        run=RunConfig(command=("sleep", "60"), processes_per_worker=2),
    )
    return dict(os.environ) | {"PYTHONPATH": str(ROOT / "trainer_image")} | worker.to_env()


def driver(where: str) -> str:
    """The entry point, with a token file of ours."""
    places = f"Places({PurePosixPath(where) / 'token'!r}, {PurePosixPath(where) / 'last-words'!r})"
    return f"{AGENT}; from pathlib import PurePosixPath; os._exit(run_agent(os.environ, {places}))"


async def children(pid: int, count: int) -> list[int]:
    """The ranks of an agent, once they run their program."""
    while True:
        pids = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if len(pids) == count and all(b"sleep" in Path(f"/proc/{p}/cmdline").read_bytes() for p in pids):
            return pids
        await asyncio.sleep(0.005)


async def next_change(changed: asyncio.Event) -> None:
    """Wait for the hub."""
    await changed.wait()
    changed.clear()


def show(what: str, values: list[float], factor: float, unit: str) -> None:
    """Median and range."""
    low, high = min(values) * factor, max(values) * factor
    print(f"{what}: {statistics.median(values) * factor:.1f} {unit} ({low:.1f} to {high:.1f}, n={len(values)})")


def main() -> None:
    """Both, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=4000, help="connections to the hub; 0: skip")
    parser.add_argument("--rounds", type=int, default=20, help="agents started one after the other; 0: skip")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    if options.rounds:
        asyncio.run(measure_agent(options.rounds))
    if options.agents:
        asyncio.run(measure_hub(options.agents))


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    main()
