"""One line of a worker's log: when, who, what. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from disttrain.sdk.errors import BadInput

_RANK = re.compile(r"^\[rank (\d+)\] ?")
_RANGE = re.compile(r"^(\d+)(?:-(\d+))?$")
MAX_RANK = 1024 * 64


@dataclass(frozen=True, slots=True)
class LogLine:
    """`rank` is None for what the agent itself says; `note` marks what the SDK says."""

    pod: str
    rank: int | None
    time: str
    """RFC 3339 with nanoseconds, from the node's clock; sorts like a string."""
    text: str
    note: bool = False


def parse(pod: str, line: bytes) -> LogLine:
    """`2030-01-01T00:00:00.000000001Z [rank 3] loss 0.1`, as the API server gives it with timestamps."""
    time, _, text = line.decode(errors="replace").partition(" ")
    found = _RANK.match(text)
    if found is None:
        return LogLine(pod, None, time, text)
    return LogLine(pod, int(found[1]), time, text[found.end() :])


def parse_ranks(text: str) -> frozenset[int]:
    """`0,3-5` → {0, 3, 4, 5}"""
    ranks: set[int] = set()
    for part in text.split(","):
        found = _RANGE.match(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last or last > MAX_RANK:
            raise BadInput(f"{part.strip()!r} is not a rank or a range of ranks", hint="for example: --rank 0,3-5")
        ranks.update(range(first, last + 1))
    return frozenset(ranks)


def wanted(lines: Iterable[LogLine], ranks: frozenset[int] | None) -> Iterator[LogLine]:
    """Only those ranks; what agents say is left out when ranks are chosen."""
    return (line for line in lines if ranks is None or line.note or line.rank in ranks)


_START = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_ALARM = re.compile(
    r"\b(ERROR|CRITICAL|FATAL)\b|^\w*(Error|Exception)\b|out of memory|\bKilled\b|Segmentation fault|Fatal Python error"
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What one rank (or agent) of one pod said about its errors, in order."""

    pod: str
    rank: int | None
    time: str
    lines: tuple[str, ...]


def troubles(lines: Iterable[LogLine], first: int | None = None) -> list[Trouble]:
    """Tracebacks and lines that sound like errors, by rank: the rank `first` (the one that the operator blames), then by time."""
    found: dict[tuple[str, int | None], list[LogLine]] = {}
    inside: dict[tuple[str, int | None], bool] = {}
    for line in lines:
        who = (line.pod, line.rank)
        keep, inside[who] = _keep(line.text, inside.get(who, False))
        if keep:
            found.setdefault(who, []).append(line)
    blocks = [Trouble(pod, rank, kept[0].time, tuple(k.text for k in kept)) for (pod, rank), kept in found.items()]
    return sorted(blocks, key=lambda b: (b.rank != first if first is not None else False, b.time))


def _keep(text: str, inside: bool) -> tuple[bool, bool]:
    """(is the line part of an error, does the traceback go on behind it)"""
    if _START in text:
        return True, True
    if inside:
        # Indented lines are frames; the first other one is the exception; a blank one may come before a chained traceback.
        return True, not text.strip() or text[:1].isspace() or text.startswith(_CHAINED)
    return bool(_ALARM.search(text)) or text.startswith(_CHAINED), False
