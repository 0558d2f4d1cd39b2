"""The operator's name, looked up by a real resolver at a name server that fails, is slow, or lies."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.agent.harness import AgentProcess, python, until
from tests.channel.rig import HOST, Rig

from disttrain_contract.messages import AgentState

ADDRESS = "127.0.0.53"
"""Of the name server, on the port that resolvers ask."""
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.99"
_NXDOMAIN, _SERVFAIL = 3, 2


class NameServer:
    """Gives whatever address is in `says`; a number is an error; None is no answer at all."""

    def __init__(self) -> None:
        self.says: str | int | None = None
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((ADDRESS, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                question, asker = self._socket.recvfrom(512)
                self.asked += 1
                if self.says is not None:
                    self._socket.sendto(_answer(question, self.says), asker)


def _answer(question: bytes, says: str | int) -> bytes:
    """To a question for one name; there is no IPv6."""
    end = question.index(b"\0", 12) + 5
    wanted = question[end - 4 : end - 2]
    found = isinstance(says, str) and wanted == b"\0\1"
    head = (
        question[:2]
        + bytes([0x81, 0x80 | (says if isinstance(says, int) else 0)])
        + b"\0\1\0"
        + bytes([found])
        + bytes(4)
    )
    record = b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + socket.inet_aton(str(says)) if found else b""
    return head + question[12:end] + record


@pytest.fixture
def names(tmp_path: Path) -> Iterator[NameServer]:
    (tmp_path / "resolv.conf").write_text(f"nameserver {ADDRESS}\noptions timeout:1 attempts:1\n")
    may = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    if os.geteuid() or not may:
        pytest.skip("a resolver of its own needs more rights")
    server = NameServer()
    yield server
    server.close()


async def test_a_name_that_cannot_be_looked_up_is_looked_up_for_ever(
    rig: Rig, names: NameServer, dialling: Callable[..., AgentProcess], tmp_path: Path
) -> None:
    """First the name server does not answer, then it knows no such name, then it gives an address where nobody is."""
    agent = dialling(python("import time; time.sleep(100)")).change(operator_url=f"wss://{HOST}:{rig.port}")
    mounted = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
    agent.start(wrap=("unshare", "-m", "sh", "-c", mounted, "sh"))
    for says, words in (
        (None, "Temporary failure in name resolution"),
        (_SERVFAIL, "Temporary failure in name resolution"),
        (_NXDOMAIN, "Name or service not known"),
        (ELSEWHERE, f"Connect call failed ('{ELSEWHERE}'"),
    ):
        names.says, asked = says, names.asked
        await until(lambda asked=asked: names.asked > asked, "a question")  # type: ignore[misc]
        await until(lambda words=words: words in agent.output, words)  # type: ignore[misc]
    assert rig.hub.connected == 0
    names.says = HERE
    await rig.until(lambda: (r := rig.view("a").report) is not None and r.state is AgentState.IDLE)
