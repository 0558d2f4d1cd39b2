"""A task in which ranks stand still where no task can make them: in the middle of sending their state, and on either side of
the update for which all gradients have come."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from disttrain_runtime.groups import Group
from disttrain_runtime.strategies.replica import Replica
from disttrain_runtime.task import Task
from support import gloo_tasks
from support.gloo_tasks import wait_at

SENT = 3
"""Chunks of a state that its giver has sent when it comes to the door."""
GIVES = 0
"""Its door."""


def build(
    doors: Path,
    giver: int = -1,
    behind: int = -1,
    ahead: int = -1,
    dead: int = -1,
    at: int = -1,
    width: int = 48,
    rank: int = -1,
) -> Task:
    """`giver`: see SENT. In step `at`, `ahead` stands at door `at + 1` behind its update, `behind` at door `at` before it,
    and finds then that the last of its exchange, which was to come from `dead`, will not come. Each once."""
    here = int(os.environ["RANK"])
    if here == giver:
        _once(Group, "start_send", SENT, before=partial(wait_at, doors, GIVES))
    if here == ahead:
        _once(Replica, "update", at, after=partial(wait_at, doors, at + 1))
    if here == behind:
        _once(Replica, "update", at, before=partial(_fall_behind, doors, at, dead))
    return gloo_tasks.build(steps=24, norm=False, width=width, doors=doors, rank=rank, at=[at])


def _once(
    owner: type,
    name: str,
    calls: int,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """These happen around a method's call number `calls`, counted from zero."""
    real, numbers = getattr(owner, name), iter(range(1_000_000))

    def call(*args: Any) -> Any:
        now = next(numbers) == calls
        if now:
            before()
        answer = real(*args)
        if now:
            after()
        return answer

    setattr(owner, name, call)


def _fall_behind(doors: Path, step: int, dead: int) -> None:
    wait_at(doors, step)
    dist.recv(torch.zeros(1), src=dead)
