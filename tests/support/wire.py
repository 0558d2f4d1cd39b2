"""A network between ranks on which anything may happen to a packet: it is lost, late, doubled, changed, one way or both.

Each place has a network namespace of its own whose only link is a TUN device; a thread takes whole IP packets out of one and
puts them into another. TCP above is the kernel's own. Namespaces and links end with the wire and the ranks in them.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from itertools import count

import pytest

NAMESPACE = "STORY_NAMESPACE"
"""Where a rank's process finds the namespace to enter."""
NAME, MTU = "wire0", 1500
Weather = Callable[[int, int, bytes], Iterable[tuple[float, bytes]]]
"""Sender, receiver, packet → what arrives, and after how many seconds."""
_TCP, _SYN = 6, 2
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


def fair(sender: int, receiver: int, packet: bytes) -> Iterable[tuple[float, bytes]]:
    """Everything arrives at once."""
    return [(0.0, packet)]


def address(place: int) -> str:
    """On the wire."""
    return f"10.78.0.{place + 1}"


def enter(namespace: str) -> None:
    """This process, which has one thread, moves to a place."""
    fd = os.open(namespace, os.O_RDONLY)
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


class Noise:
    """Changes single bits of the long messages of one place, once it is `on`, and makes the checksum right again: as a
    switch or a memory does that changes what it has already checked. It changes a high bit of a float's mantissa."""

    APART = 20
    """Long packets, of which one is changed."""

    def __init__(self, sender: int) -> None:
        self._sender, self.on, self.changed = sender, False, 0
        self._begins: dict[bytes, int] = {}
        """Connection → the number of its first byte."""
        self._long = 0

    def __call__(self, sender: int, receiver: int, packet: bytes) -> Iterable[tuple[float, bytes]]:
        tcp = 4 * (packet[0] & 15)
        ports, sequence, flags = packet[tcp : tcp + 4], int.from_bytes(packet[tcp + 4 : tcp + 8]), packet[tcp + 13]
        if sender != self._sender or packet[9] != _TCP:
            return [(0.0, packet)]
        if flags & _SYN:
            self._begins[ports] = sequence + 1
        middle = len(packet) // 2 & ~3
        middle += (self._begins.get(ports, 0) - sequence + tcp + 4 * (packet[tcp + 12] >> 4) - middle) % 4
        # gloo's headers lie between the gradients, and are full of zeros
        self._long += self.on and len(packet) == MTU and bytes(5) not in packet[middle - 64 : middle + 64]
        if not self._long or self._long % self.APART:
            return [(0.0, packet)]
        self._long += 1
        self.changed += 1
        return [(0.0, _flipped(packet, tcp, middle + 2, 0x40))]


def _flipped(packet: bytes, tcp: int, at: int, bits: int) -> bytes:
    """With another byte there, and the checksum that belongs to it (RFC 1624)."""
    changed, word = bytearray(packet), at & ~1
    changed[at] ^= bits
    old, new, check = (
        int.from_bytes(b) for b in (packet[word : word + 2], changed[word : word + 2], packet[tcp + 16 : tcp + 18])
    )
    total = (check ^ 0xFFFF) + (old ^ 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[tcp + 16 : tcp + 18] = (total ^ 0xFFFF).to_bytes(2)
    return bytes(changed)


class Wire:
    """Places that are joined. `weather` may be changed at any time."""

    def __init__(self, places: int) -> None:
        self.weather: Weather = fair
        self._cut: frozenset[tuple[int, int]] = frozenset()
        self._links: list[int] = []
        self._namespaces: list[int] = []
        for place in range(places):
            self._make(place)
        self._over = threading.Event()
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self._carrier.start()

    def environment(self, place: int, leader: int) -> dict[str, str]:
        """What a rank must know that lives here."""
        where = f"/proc/{os.getpid()}/fd/{self._namespaces[place]}"
        return {NAMESPACE: where, "GLOO_SOCKET_IFNAME": NAME, "MASTER_ADDR": address(leader)}

    def cut(self, *ways: tuple[int, int]) -> None:
        """From now on these (sender, receiver) lose every packet, and no other ones do."""
        self._cut = frozenset(ways)

    def close(self) -> None:
        self._over.set()
        self._carrier.join()
        for fd in (*self._links, *self._namespaces):
            os.close(fd)

    def _make(self, place: int) -> None:
        """In a thread that ends: a thread can have a namespace of its own."""
        failed: list[OSError] = []

        def make() -> None:
            try:
                if _libc.unshare(_CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "unshare")
                self._namespaces.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
                self._links.append(_plugged(address(place)))
            except OSError as error:
                failed.append(error)

        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        if failed:
            pytest.skip(f"a network of its own needs more rights: {failed[0]}")

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers, poll = count(), select.epoll()
        for link in self._links:
            poll.register(link, select.EPOLLIN)
        while not self._over.is_set():
            wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.05
            for link, _ in poll.poll(min(wait, 0.05)):
                sender = self._links.index(link)
                for receiver, packet in _packets(link, len(self._links)):
                    if (sender, receiver) not in self._cut:
                        for delay, arrives in self.weather(sender, receiver, packet):
                            heapq.heappush(waiting, (time.monotonic() + delay, next(numbers), receiver, arrives))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, receiver, packet = heapq.heappop(waiting)
                os.write(self._links[receiver], packet)


def _plugged(own: str) -> int:
    """The other end of this namespace's only link."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", NAME.encode(), _IFF_TUN | _IFF_NO_PI))
    for words in ("link set lo up", f"link set {NAME} mtu {MTU} up", f"addr add {own}/24 dev {NAME}"):
        subprocess.run(["ip", *words.split()], check=True)
    return tun


def _packets(link: int, places: int) -> Iterable[tuple[int, bytes]]:
    """What wants to leave now, and for where. The kernel sends other things than IPv4, too, to nobody here."""
    while True:
        try:
            packet = os.read(link, MTU)
        except BlockingIOError:
            return
        receiver = packet[19] - 1  # the last byte of an IPv4 destination
        if packet[0] >> 4 == 4 and 0 <= receiver < places:
            yield receiver, packet
