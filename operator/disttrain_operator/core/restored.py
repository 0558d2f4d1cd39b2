"""Is what training went on from the checkpoint that was committed? The rank has verified it; here it meets what status says."""

from __future__ import annotations

from disttrain_contract.messages import Checkpoint, Restore

Verdict = tuple[bool, str, str]
"""Of the condition RestoreVerified: status, reason, message."""


def verdict(incarnation: int, start: Restore, recorded: Checkpoint | None) -> Verdict | None:
    """None when there is nothing to say: a fresh start, or `recorded` is a commit made after the restore, so that this
    was judged before."""
    if recorded is not None and recorded.incarnation >= incarnation:
        return None
    goes_on = f"incarnation {incarnation} goes on from step {start.step}"
    if start.source == "remote":
        goes_on += ", fetched from checkpoint.remote"
    if start.source == "survivor":
        return True, "FromSurvivor", f"{goes_on}, which a living rank held"
    if start.source == "buddy":
        return True, "FromBuddy", f"{goes_on}, of which living ranks had copies"
    skipped = f"; skipped: {'; '.join(start.skipped)}" if start.skipped else ""
    if start.source == "none" and start.skipped:
        return False, "NothingVerified", f"no checkpoint verified, training starts at step 0{skipped}"
    if recorded is not None:
        if start.step < recorded.step and not start.skipped:
            where = (
                f"step {recorded.step} was committed as {recorded.digest}, but {recorded.path} is not there any more"
            )
            return False, "CommittedMissing", f"{goes_on}: {where}; who removed it?"
        if start.step == recorded.step and start.digest != recorded.digest:
            return False, "DigestDiffers", f"{goes_on}: {_differs(start, recorded)}{skipped}"
    if start.source == "none":
        return None
    equal = recorded is not None and (start.step, start.digest) == (recorded.step, recorded.digest)
    as_recorded = ", equal to the one recorded at its commit" if equal else ""
    reason = "SkippedCorrupt" if start.skipped else "Verified"
    return True, reason, f"{goes_on}, digest {start.digest[:19]}… verified{as_recorded}{skipped}"


def _differs(start: Restore, recorded: Checkpoint) -> str:
    return (
        f"its files match their manifest {start.digest}, but the commit was reported as {recorded.digest}; either the step "
        "was saved once more by an incarnation that died before it could say so, or somebody changed the volume"
    )
