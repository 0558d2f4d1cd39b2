"""What the agent asks of the warm parent: one rank, please. Both ends of the conversation, with nothing but sockets.

    agent   → parent   one byte, and five descriptors: stdout, stderr, report pipe, a private line, the request
    rank    → agent    on the private line: its process number, once it is the agent's child
    agent   → rank     on the private line: go

The private line is closed without a word when the parent, or the process between, or the rank dies on the way, and a
rank that gets no `go` ends: so a request that the agent has given up can never become a second rank later.
The request itself is a file in memory: environments are larger than what a socket takes in one piece.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from disttrain_contract import env
from disttrain_runtime.agent.execute import Ends
from disttrain_runtime.agent.launch import RankSpec

PRELOAD = env.PREFIX + "PRELOAD"
"""In the parent's environment: modules to import, separated by commas. The first one is the rank's program: it has
`main(argv, environment)`, which returns an exit code, and `leave(code)`."""
_ASK = b"?"
_GO = b"!"
_DESCRIPTORS = 5


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """As the parent gets it. The descriptors are its own copies."""

    ends: Ends
    line: int
    text: int

    def close(self) -> None:
        """In the parent: they belong to the rank now."""
        for fd in (self.ends.out, self.ends.err, self.ends.report, self.line, self.text):
            os.close(fd)

    def read(self) -> tuple[list[str], Mapping[str, str]]:
        """The command line and the environment."""
        with open(self.text, "rb", closefd=False) as file:
            file.seek(0)
            argv, environment = json.loads(file.read())
        return argv, environment


def ask(parent: socket.socket, spec: RankSpec, ends: Ends, seconds: float) -> int:
    """In the agent: the process number of the new rank. Raises OSError when there is none, and there will be none."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs, os.fdopen(os.memfd_create("rank"), "wb") as text:
            text.write(json.dumps([spec.argv, dict(spec.environment)]).encode())
            text.flush()
            parent.settimeout(seconds)
            socket.send_fds(parent, [_ASK], [ends.out, ends.err, ends.report, theirs.fileno(), text.fileno()])
        ours.settimeout(seconds)
        answer = ours.recv(32)
        if not answer:
            raise ConnectionError("it died while it forked")
        ours.sendall(_GO)
    return int(answer)


def asked(agent: socket.socket) -> ForkRequest | None:
    """In the parent: wait for a request. None: the agent is gone."""
    data, fds, _, _ = socket.recv_fds(agent, 1, _DESCRIPTORS)
    if data != _ASK:
        return None
    out, err, report, line, text = fds
    return ForkRequest(Ends(out, err, report), line, text)


def wait_for_go(request: ForkRequest) -> bool:
    """In the rank: True when the agent has taken it on."""
    with socket.socket(fileno=os.dup(request.line)) as line:
        try:
            line.sendall(str(os.getpid()).encode())
            return line.recv(1) == _GO
        except OSError:
            return False
