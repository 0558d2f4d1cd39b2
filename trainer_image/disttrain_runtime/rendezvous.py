"""How ranks meet: at rank 0's store first, and only when all are there do they connect to each other.

torch's own rendezvous waits inside its library, where a rank can neither hear that a newer group is called for nor that
it should stop. Here every wait is a loop that looks; what is left to the library takes milliseconds, and has a time-out.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from disttrain_runtime.config import Place
from disttrain_runtime.errors import PeerGoneError
from disttrain_runtime.groups import Group

TIMEOUT = timedelta(minutes=30)
"""torch's own default for gloo. A dead peer is seen at once by its closed connection; this only ends what nobody watches."""
CONNECT = timedelta(seconds=10)
"""For everybody to connect to everybody, once all are there. Who dies in these milliseconds is not always noticed."""
_KNOCK = timedelta(seconds=1)
"""A node that is cut off swallows the knock; meanwhile nobody looks whether a newer group is called for."""
_PAUSE = 0.002
"""Between two looks: what the whole meeting takes when everybody is there."""


def device_of(place: Place) -> torch.device:
    """One GPU per process, if there are any."""
    return torch.device("cuda", place.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def form_group(place: Place, over: Callable[[], bool]) -> Group:
    """Meet the others at MASTER_ADDR:MASTER_PORT. GPU: NCCL, one process per GPU, gloo for words; no GPU: gloo for all.

    `over` tells that this group is over before it was there. Raises a victim's error then (see errors.is_victim).
    """
    device = device_of(place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = _meet(place, over)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=CONNECT)
    dist.distributed_c10d.set_timeout(TIMEOUT)
    return Group(place.rank, place.world_size, device, place.per_worker)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is a group of its own. What is made there can move to a real one."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meet(place: Place, over: Callable[[], bool]) -> Store:
    """The store of a group whose ranks are all there."""
    if place.world_size == 1:
        return HashStore()  # alone there is no address to meet at
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun has a store there already
    leads = place.rank == 0 and not hosted
    store = _open(address, port, CONNECT, leads=True) if leads else _join(address, port, over)
    store.set_timeout(TIMEOUT)
    # Whose group this is: an address may have gone to another job's pod, and whoever still calls there counts for nothing.
    job, attempt = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    here = PrefixStore(f"disttrain/{job}/{attempt}", store)
    here.add("here", 1)
    _until(lambda: here.add("here", 0) >= place.world_size, over, "not all ranks of the group have come")
    return here


def _open(address: str, port: int, timeout: timedelta, *, leads: bool = False) -> TCPStore:
    return TCPStore(address, port, is_master=leads, timeout=timeout, wait_for_workers=False)


def _join(address: str, port: int, over: Callable[[], bool]) -> TCPStore:
    """Rank 0's store. Who answers at its address may be somebody else, or rank 0 of a group that is over: the library would
    try the same again for as long as its time-out, and hear no order meanwhile."""
    found: list[TCPStore] = []

    def joined() -> bool:
        if _answers(address, port):
            with suppress(RuntimeError):
                found.append(_open(address, port, _KNOCK))
        return bool(found)

    _until(joined, over, f"rank 0 cannot be reached at {address}:{port}")
    return found[0]


def _until(true: Callable[[], bool], over: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + TIMEOUT.total_seconds()
    while not true():
        if over() or time.monotonic() > end:
            raise PeerGoneError(otherwise)
        time.sleep(_PAUSE)


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=_KNOCK.total_seconds()).close()
    except OSError:
        return False
    return True
