"""Can this job run at all? Said before a pod is made, and again when it changes."""

from __future__ import annotations

from dataclasses import dataclass

from disttrain_contract.messages import Checkpoint
from disttrain_operator.core.model import World

OUR_NAME = "disttrain.dev/operator"
WRITABLE = frozenset({"ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, and how to mend it."""

    reason: str
    message: str
    waits: bool
    """True: the job starts by itself when the cause is gone."""


def refusal(world: World) -> Refusal | None:
    """The first thing that stands in the way."""
    job, claim = world.job, world.claim
    if job.invalid is not None:
        return Refusal("InvalidSpec", job.invalid, waits=False)
    wanted = job.spec.claim
    if wanted is None:
        return None
    where = f"PersistentVolumeClaim {wanted.name!r} in namespace {job.namespace!r}"
    if claim is None:
        if wanted.size is not None:
            return None  # the operator makes it
        return Refusal(
            "ClaimNotFound",
            f"spec.checkpoint.volume.claimName: there is no {where}: create it and the job starts by itself",
            waits=True,
        )
    if claim.deleting:
        return Refusal(
            "ClaimTerminating", f"{where} is being deleted: wait for its end or use another claim", waits=True
        )
    if claim.access_modes and not WRITABLE & set(claim.access_modes):
        modes = ", ".join(claim.access_modes)
        return Refusal(
            "ClaimReadOnly",
            f"{where} can only be read ({modes}): checkpoints need a writable claim such as ReadWriteMany",
            waits=True,
        )
    return None


def too_small(world: World, made: Checkpoint | None) -> str | None:
    """A sentence when the claim cannot hold the checkpoints that are to be kept, judged by the size of the newest one."""
    claim, keep = world.claim, world.job.spec.keep
    if made is None or claim is None or claim.capacity_bytes is None or not made.bytes:
        return None
    need = made.bytes * (keep + 1)  # one more is being written while `keep` are kept
    if need <= claim.capacity_bytes:
        return None
    return (
        f"claim {claim.name} holds {claim.capacity_bytes >> 20} MiB, but {keep} checkpoints of {made.bytes >> 20} MiB and one "
        f"in the making need {need >> 20} MiB: enlarge the claim or lower spec.checkpoint.keep"
    )
