"""A function on every rank of a real group: for stories about one strategy, without agent, reports and checkpoints."""

from __future__ import annotations

import os
import queue
import traceback
from collections.abc import Callable
from typing import Any

from support.gloo_ranks import DEADLINE, _context, free_port

Story = Callable[..., Any]
"""(meet, …) → what the story says, picklable. Importable, not a closure.

`meet()` gives a group and its connections; it may be called again when the last group was left.
"""


def together(world: int, story: Story, *args: Any) -> list[Any]:
    """What it says on each rank, by rank. A rank that raises makes this raise, too."""
    answers: Any = _context.Queue()
    ports = [_context.Queue() for _ in range(world)]
    ranks = [_context.Process(target=_rank, args=(answers, ports, r, world, story, args)) for r in range(world)]
    for rank in ranks:
        rank.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < world:
            rank, answer, error = answers.get(timeout=DEADLINE)
            assert error is None, f"rank {rank}: {error}"
            found[rank] = answer
    except queue.Empty:
        raise AssertionError(f"nothing happened for {DEADLINE} s; there are only {sorted(found)}") from None
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    return [found[rank] for rank in range(world)]


def _rank(answers: Any, ports: list[Any], rank: int, world: int, story: Story, args: tuple[Any, ...]) -> None:
    from disttrain_runtime.config import Place
    from disttrain_runtime.connections import Connections
    from disttrain_runtime.groups import Group
    from disttrain_runtime.rendezvous import form_group
    from disttrain_runtime.worker import make_deterministic

    groups: list[Group] = []

    def meet() -> tuple[Group, Connections]:
        if rank == 0:  # chosen just before it is used: others on this machine choose, too
            port = free_port()
            for told in ports:
                told.put(port)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(ports[rank].get()))
        connections = Connections()
        groups.append(form_group(Place(rank=rank, world_size=world, local_rank=rank), lambda: False))
        return groups[-1], connections

    try:
        make_deterministic()
        answers.put((rank, story(meet, *args), None))
        groups[-1].barrier()
    except Exception:
        answers.put((rank, None, traceback.format_exc()))
