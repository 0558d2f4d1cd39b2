"""Which checkpoints of the second tier count. Pure values.

An object store has no lock and no rename, so nothing can stop a process of an old incarnation from writing there late.
Instead, what it writes is not believed: every folder carries the mark of the claimant that made it, and the claim of
the present owner lists the folders that were complete when it took over. A folder counts when it is in that list or
carries the owner's mark.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from disttrain_contract.paths import step_dir_name
from disttrain_runtime.checkpoint.fence import Holder

MAX_BYTES = 1024 * 1024
"""Of a claim: a name takes 30 bytes and `keep` is at most 1000."""
_MARK = 8
"""Characters of a claimant's random name: two owners of one job that share them are one in four thousand million."""
_NAME = re.compile(r"step-(\d{8,18})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Claim:
    """Who owns the remote copies, and what it found when it took over."""

    holder: Holder
    claimant: str
    accepted: tuple[str, ...]


def folder_name(step: int, claimant: str) -> str:
    """Where a claimant puts the checkpoint of a step."""
    return f"{step_dir_name(step)}-{claimant[:_MARK]}"


def step_of(name: str) -> int | None:
    """None: not a folder of ours."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and name == folder_name(int(match[1]), match[2]) else None


def believed(names: Iterable[str], claim: Claim | None) -> tuple[str, ...]:
    """Those that count, newest first. Without a claim that can be read all do: better a doubtful copy than none."""
    steps = {name: step for name in names if (step := step_of(name)) is not None}
    mine = f"-{claim.claimant[:_MARK]}" if claim is not None else ""
    counted = [n for n in steps if claim is None or n in claim.accepted or n.endswith(mine)]
    return tuple(sorted(counted, key=lambda n: (steps[n], n), reverse=True))


def encode(claim: Claim) -> bytes:
    """With its own digest, so that a damaged claim is not obeyed."""
    body = asdict(claim)
    return json.dumps(body | {"digest": _digest(body)}).encode()


def decode(data: bytes) -> Claim | None:
    """None when it is not one of ours, whole."""
    try:
        body = json.loads(data)
        if body.pop("digest") != _digest(body):
            return None
        holder = Holder(str(body["holder"]["job_uid"]), int(body["holder"]["incarnation"]))
        return Claim(holder, str(body["claimant"]), tuple(str(name) for name in body["accepted"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
