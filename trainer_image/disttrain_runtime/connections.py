"""A group's connections: cut them from any thread, so that whoever waits in a collective gets an error at once; count.

gloo has no abort: a rank that waits for a peer which is stopped, or behind a cut cable, would wait until the time-out.
But its connections are ours, and a connection that is shut down ends every wait on both of its ends.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_FDS = Path("/proc/self/fd")
_BYTES_SENT = struct.Struct("=200xQQ")
"""The kernel's `struct tcp_info` up to `tcpi_bytes_sent` and `tcpi_bytes_retrans` (Linux 4.19)."""


class Connections:
    """The TCP sockets that this process opens from now on. Made before a group is formed: then they are the group's."""

    def __init__(self) -> None:
        self._others = _sockets()

    def cut(self) -> None:
        """Shut down those that are open now. A listening socket stays as it is: it has no peer."""
        for fd in self._open():
            _shut(fd)

    def sent(self) -> int:
        """Bytes that the kernel has sent on those that are open now, each once: payload, without TCP's headers."""
        return sum(_sent(fd) for fd in self._open())

    def _open(self) -> Iterator[int]:
        return (fd for fd, name in _sockets().items() if self._others.get(fd) != name)


def _sockets() -> dict[int, str]:
    """Descriptor → the kernel's name of the socket. A number is used again, a name is not."""
    found: dict[int, str] = {}
    for entry in _FDS.iterdir():
        with suppress(OSError):  # closed in between
            name = str(entry.readlink())
            if name.startswith("socket:"):
                found[int(entry.name)] = name
    return found


def _sent(fd: int) -> int:
    with suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:  # no TCP, or closed in between
        sent, again = _BYTES_SENT.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_SENT.size))
        return int(sent - again)
    return 0


def _shut(fd: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:  # no peer, or closed in between
        if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
            connection.getpeername()
            connection.shutdown(socket.SHUT_RDWR)
