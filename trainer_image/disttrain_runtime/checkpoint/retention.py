"""Which checkpoints to delete. Pure; the newest committed one is never among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def to_delete(
    steps: Collection[int], latest: int, rejected: Collection[int], keep: int, best: Sequence[int] = ()
) -> tuple[int, ...]:
    """After `latest` was committed: keep it and the newest before it, `keep` in all, and beside them the first of `best`
    (the steps with the best evaluations, best first) that is there.

    Rejected ones (they did not verify) do not count as kept, and go once they are passed. Anything newer than
    `latest` stays: it may be somebody's only copy, and the step that passes it will replace it.
    """
    passed = sorted((s for s in steps if s <= latest), reverse=True)
    good = [s for s in passed if s == latest or s not in rejected]
    kept = {*good[: max(1, keep)], *[step for step in best if step in good][:1]}
    return tuple(sorted(s for s in passed if s not in kept))
