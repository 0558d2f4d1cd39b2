"""A slow network on one machine: each rank in a network namespace of its own, joined by links with a rate and a delay.

The rate is the kernel's (`tc … tbf` on the way out of each namespace). The delay is `tc netem`'s in most descriptions, but not
every kernel has it, so whole IP packets wait here: each namespace's link is a TUN device, and one process reads what comes
out of each, keeps it for the delay, and puts it into its receiver's. TCP above is the kernel's own, and sees packets of a network
that is slow and far: it is no relay of byte streams. Namespaces and links end with the processes that hold them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import statistics
import struct
import subprocess
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

MEGABITS, DELAY = 100, 0.020
"""Of each rank's link; the delay is one way."""
MTU = 9000
"""Jumbo frames: at 1,500 bytes the packets of four ranks would take most of a core to carry."""
QUEUE = 1_500_000
"""Bytes that wait for the link, at most: netem's 1,000 packets of 1,500."""
BURST = 32_000
"""Bytes that may leave at once: a few packets."""
NAME = "far0"
PORT, PINGS = 7, 20
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def address(rank: int) -> str:
    """Of a rank on the wire."""
    return f"10.77.0.{rank + 1}"


def plug_in(rank: int, wire: Connection) -> None:
    """Put this process into a namespace with nothing but this link, and give the other end to who carries packets."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare of the network: the benchmark of the slow link must run as root")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", NAME.encode(), _IFF_TUN | _IFF_NO_PI))
    for words in (
        "ip link set lo up",
        f"ip link set {NAME} mtu {MTU} txqueuelen 1000 up",
        f"ip addr add {address(rank)}/24 dev {NAME}",
        f"tc qdisc replace dev {NAME} root tbf rate {MEGABITS}mbit burst {BURST} limit {QUEUE}",
    ):
        subprocess.run(words.split(), check=True)
    send_handle(wire, tun, None)
    os.close(tun)


def carry(ends: list[Connection]) -> None:
    """Take packets from each link, and bring them to their receiver after the delay. Never returns."""
    links = [recv_handle(end) for end in ends]
    waiting: deque[tuple[float, int, bytes]] = deque()
    poll = select.epoll()
    for link in links:
        poll.register(link, select.EPOLLIN)
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else -1
        for link, _ in poll.poll(timeout):
            _take(link, links, waiting)
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, link, packet = waiting.popleft()
            _put(link, packet)


def _take(link: int, links: list[int], waiting: deque[tuple[float, int, bytes]]) -> None:
    while True:
        try:
            packet = os.read(link, MTU)
        except BlockingIOError:
            return
        receiver = packet[19] - 1  # the last byte of an IPv4 destination
        if packet[0] >> 4 == 4 and 0 <= receiver < len(links):
            waiting.append((time.monotonic() + DELAY, links[receiver], packet))


def _put(link: int, packet: bytes) -> None:
    try:
        os.write(link, packet)
    except OSError:  # a receiver that is slow, or gone, loses packets, as it would anywhere
        return


def round_trip(context: Any) -> float:
    """Milliseconds there and back between two ranks, as a packet sees it: what the wire is, not what it should be."""
    pairs = [context.Pipe() for _ in range(2)]
    told: Any = context.Queue()
    carrier = context.Process(target=carry, args=([mine for mine, _ in pairs],))
    ranks = [context.Process(target=_ping, args=(r, other, told)) for r, (_, other) in enumerate(pairs)]
    for process in (carrier, *ranks):
        process.start()
    try:
        return float(told.get(timeout=60))
    finally:
        for process in (carrier, *ranks):
            process.kill()


def _ping(rank: int, wire: Connection, told: Any) -> None:
    """One byte there and back, over UDP; a median of some."""
    plug_in(rank, wire)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as box:
        box.bind((address(rank), PORT))
        if rank:
            while True:
                said, giver = box.recvfrom(1)
                box.sendto(said, giver)
        box.settimeout(1)
        times: list[float] = []
        while len(times) < PINGS:
            began = time.monotonic()
            box.sendto(b"?", (address(1), PORT))
            with suppress(TimeoutError):  # the other one may not be plugged in yet
                box.recv(1)
                times.append(1000 * (time.monotonic() - began))
        told.put(statistics.median(times))
