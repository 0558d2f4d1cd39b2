"""Groups that cannot meet where they should: somebody else is there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.distributed.test_regroup import STEPS, TASK, WORLD, holding, quiet

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import Holding
from support.gloo_ranks import Ranks, digests

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def says_nothing(connection: socket.socket) -> None:
    """And stays."""


def hangs_up(connection: socket.socket) -> None:
    connection.close()


def talks_of_something_else(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)


@contextmanager
def stranger(behaviour: Callable[[socket.socket], None]) -> Iterator[int]:
    """Another program that listens. Gives its port."""
    guests: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    guests.append(door.accept()[0])
                    behaviour(guests[-1])

        threading.Thread(target=serve, daemon=True).start()
        yield door.getsockname()[1]
        door.shutdown(socket.SHUT_RDWR)
    for guest in guests:
        guest.close()


@pytest.mark.parametrize("behaviour", [says_nothing, hangs_up, talks_of_something_else])
def test_a_port_that_another_program_has_is_said_and_the_next_group_meets_elsewhere(
    tmp_path: Path, behaviour: Callable[[socket.socket], None]
) -> None:
    """Rank 0 cannot listen there, and says so; the others knock at a stranger's door until they are told where to go."""
    with (
        stranger(behaviour) as port,
        Ranks(
            tmp_path / "logs", TASK, WORLD, job_dir=tmp_path / "job", regroups=True, env={"MASTER_PORT": str(port)}
        ) as ranks,
    ):
        holding(ranks, 0)
        (held,) = ranks.told.of(Holding, 0)
        assert held.failure.failure_class is FailureClass.NETWORK
        assert "address already in use" in held.failure.message.lower() and str(port) in held.failure.message
        ranks.regroup(incarnation=2)
        assert ranks.ended() == [0] * WORLD, ranks.output(1)
    assert digests(tmp_path / "job", STEPS) == quiet(tmp_path)
