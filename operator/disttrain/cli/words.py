"""How numbers and times are said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from disttrain.sdk.job import Job

NONE = "-"


def length(seconds: float) -> str:
    """`4s`, `2m13s`, `3h5m`, `2d4h`: two units at most, as kubectl does."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m{whole % 60}s" if whole % 60 and minutes < 10 else f"{minutes}m"
    return f"{whole}s"


def age(then: datetime | None, now: datetime) -> str:
    """How long ago."""
    return length((now - then).total_seconds()) if then is not None else NONE


def clock(moment: datetime | None) -> str:
    """Wall clock time here."""
    return moment.astimezone().strftime("%H:%M:%S") if moment is not None else " " * 8


def number(value: float | None) -> str:
    """Four significant digits: what a loss needs."""
    return NONE if value is None else f"{value:.4g}"


def metrics(values: Mapping[str, float] | None) -> str:
    """`accuracy 0.972, f1 0.96`"""
    return ", ".join(f"{name} {number(value)}" for name, value in (values or {}).items())


def plural(n: int, thing: str, many: str = "") -> str:
    """`1 worker`, `3 workers`; `recovery`/`recoveries`"""
    return f"{n} {thing if n == 1 else many or thing + 's'}"


def steps(job: Job) -> str:
    """`130/300`, `130`, or `-` before the first report."""
    at = job.status.progress
    if at is None:
        return NONE
    return f"{at.step}/{at.total_steps}" if at.total_steps else str(at.step)


def pace(job: Job) -> str:
    """Epoch, loss, speed and time to go, as far as they are known."""
    at = job.status.progress
    if at is None:
        return ""
    parts = (
        f"epoch {at.epoch}" if at.epoch is not None else "",
        f"loss {number(at.loss)}" if at.loss is not None else "",
        f"{at.samples_per_second:,.0f} samples/s" if at.samples_per_second else "",
        f"ETA {length(at.eta_seconds)}" if at.eta_seconds and not job.finished else "",
        metrics(at.metrics),
    )
    return "  ".join(part for part in parts if part)


def workers(job: Job) -> str:
    """`3/3`"""
    counts = job.status.workers
    return (counts.summary if counts is not None else None) or f"0/{job.workers}"


def recoveries(job: Job) -> str:
    """`0`, or the number with how the last one went: `1 (last: CodeError on rank 1, 2.1 s, 4 steps lost)`"""
    seen = job.status.recovery
    if seen is None or not seen.count:
        return "0"
    last = seen.last
    if last is None:
        return str(seen.count)
    where = f" on rank {last.rank}" if last.rank is not None else f" of {last.pod}" if last.pod else ""
    took = f", {last.recover_seconds:.1f} s" if last.recover_seconds is not None else ""
    lost = f", {plural(last.lost_steps, 'step')} lost" if last.lost_steps is not None else ""
    return f"{seen.count} (last: {last.failure_class or 'failure'}{where}{took}{lost})"


def checkpoint(job: Job) -> str:
    """`step 120`"""
    kept = job.status.checkpoint
    committed = kept.last_committed if kept is not None else None
    return f"step {committed.step}" if committed is not None else NONE
