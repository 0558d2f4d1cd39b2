"""The end of `pods/exec` that a kubelet has: a WebSocket with channels, over the connection of a plain HTTP server."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROTOCOL = "v5.channel.k8s.io"
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455


@dataclass(frozen=True)
class Ran:
    """What a command prints, and how it ends. `then` happens between its output and its end."""

    out: str = ""
    err: str = ""
    code: int = 0
    then: Callable[[], object] = lambda: None
    verdict: Mapping[str, Any] | None = None
    """Instead of what the exit code would say."""
    cut: bool = False
    """The connection breaks instead of ending."""


Command = Callable[[str, Sequence[str]], Ran]
"""(pod, command line) → what happens."""


@dataclass
class Execs:
    """What was executed, and what happens then."""

    answer: Command = lambda pod, command: Ran()
    seen: list[tuple[str, list[str]]] = field(default_factory=list)


def accepted(key: str) -> str:
    """The answer to a client's key."""
    return base64.b64encode(hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()).decode()


def play(connection: socket.socket, ran: Ran) -> None:
    """Everything that the kubelet would send."""
    for channel, text in ((1, ran.out), (2, ran.err)):
        if text:
            connection.sendall(_frame(2, bytes([channel]) + text.encode()))
    ran.then()
    if ran.cut:
        return
    connection.sendall(_frame(2, b"\x03" + json.dumps(ran.verdict or _verdict(ran.code)).encode()))
    connection.sendall(_frame(8, struct.pack("!H", 1000)))


def _verdict(code: int) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }  # fmt: skip


def _frame(opcode: int, payload: bytes) -> bytes:
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + size + payload
