"""Status ↔ its JSON. `from_wire(to_wire(s))` writes the same JSON again; what cannot be read is left out, never an error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from disttrain_contract.failures import FailureClass
from disttrain_contract.messages import MAX_METRICS, Best, Checkpoint, Ending, Progress
from disttrain_operator.core.conditions import Condition, Type
from disttrain_operator.core.goodput import Bucket, Ledger
from disttrain_operator.core.model import NodeFailure, Recovery, StandbyTrouble, Status, WorkerCounts
from disttrain_operator.manifests import raw
from disttrain_operator.manifests.meta import parse_time, rfc3339

Wire = dict[str, Any]

MAX_TEXT = 32768
"""As in the CRD."""
MAX_WHOLE = 2**53
"""Beyond this JSON readers disagree about integers; an agent that reports more is mistaken."""
_ORDER = {kind: place for place, kind in enumerate(Type)}
_TYPES = {str(kind): kind for kind in Type}
DIGITS = 6
"""Significant digits of measured numbers: `kubectl get` prints what is stored."""


def to_wire(status: Status, *, eta_seconds: int | None = None) -> Wire:
    """Nothing that is None, no number that JSON cannot say."""
    return _present(
        observedGeneration=status.observed_generation,
        state=status.state,
        conditions=[_condition(c) for c in status.conditions],
        incarnation=status.incarnation,
        attempts=status.attempts,
        startTime=rfc3339(status.start_time, fraction=True) if status.start_time else None,
        completionTime=rfc3339(status.completion_time, fraction=True) if status.completion_time else None,
        restartAfter=rfc3339(status.restart_after, fraction=True) if status.restart_after else None,
        replacing=list(status.replacing) or None,
        seats=list(status.seats) or None,
        standby=_standby(status.standby_trouble),
        workers=_workers(status.workers),
        progress=_progress(status.progress, eta_seconds) if status.progress else None,
        checkpoint={"lastCommitted": _checkpoint(status.checkpoint)} if status.checkpoint else None,
        recovery=_present(
            count=status.recoveries,
            last=_recovery(status.last_recovery),
            charged=[rfc3339(at, fraction=True) for at in status.charges] or None,
            chargedStep=status.charged_step or None,
            repeats=status.repeats or None,
            nodeFailures=[_node_failure(f) for f in status.node_failures] or None,
        ),
        goodput=_goodput(status.goodput),
    )


def from_wire(wire: object) -> Status:
    """Fields of a newer or older operator are passed over."""
    found = wire if isinstance(wire, Mapping) else {}
    recovery = raw.obj(found, "recovery")
    return Status(
        conditions=tuple(sorted(_conditions(found), key=lambda c: _ORDER[c.type])),
        state=raw.text(found, "state"),
        observed_generation=raw.integer(found, "observedGeneration"),
        incarnation=raw.integer(found, "incarnation") or 0,
        attempts=raw.integer(found, "attempts") or 0,
        charges=tuple(at for text in raw.items(recovery, "charged") if (at := parse_time(text)) is not None),
        charged_step=raw.integer(recovery, "chargedStep") or 0,
        repeats=raw.integer(recovery, "repeats") or 0,
        goodput=_read_goodput(raw.obj(found, "goodput")),
        start_time=parse_time(found.get("startTime")),
        completion_time=parse_time(found.get("completionTime")),
        restart_after=parse_time(found.get("restartAfter")),
        replacing=tuple(u for u in raw.items(found, "replacing") if isinstance(u, str)),
        seats=_read_seats(raw.items(found, "seats")),
        standby_trouble=_read_standby(raw.obj(found, "standby")),
        workers=_read_workers(raw.obj(found, "workers")),
        progress=_read_progress(raw.obj(found, "progress")),
        checkpoint=_read_checkpoint(raw.obj(raw.obj(found, "checkpoint"), "lastCommitted")),
        recoveries=raw.integer(recovery, "count") or 0,
        last_recovery=_read_recovery(raw.obj(recovery, "last")),
        node_failures=tuple(_read_node_failures(recovery)),
    )


def _present(**fields: Any) -> Wire:
    return {name: value for name, value in fields.items() if value is not None}


def measured(value: object) -> float | None:
    """A finite number, rounded; None for what JSON or people cannot read (a loss of NaN is not a loss)."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def _whole(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_WHOLE
    return value if whole else None  # type: ignore[return-value]


def _condition(condition: Condition) -> Wire:
    return _present(
        type=str(condition.type),
        status=condition.status,
        observedGeneration=condition.observed_generation,
        lastTransitionTime=rfc3339(condition.since),
        reason=condition.reason,
        message=condition.message[:MAX_TEXT],
    )


def _conditions(wire: Mapping[str, Any]) -> Iterator[Condition]:
    seen: set[Type] = set()
    for found in raw.objects(wire, "conditions"):
        since, kind = parse_time(found.get("lastTransitionTime")), _TYPES.get(str(found.get("type")))
        if kind is None or found.get("status") not in ("True", "False", "Unknown") or since is None:
            continue
        if kind not in seen:
            seen.add(kind)
            yield Condition(
                type=kind,
                status=found["status"],
                reason=raw.text(found, "reason") or "Unknown",
                message=raw.text(found, "message") or "",
                since=since,
                observed_generation=raw.integer(found, "observedGeneration") or 0,
            )


def _read_seats(wire: list[Any]) -> tuple[int, ...]:
    """All or nothing: with one place misread every rank would be another's."""
    seats = tuple(i for i in wire if isinstance(i, int) and not isinstance(i, bool) and i >= 0)
    return seats if len(seats) == len(wire) == len(set(seats)) else ()


def _standby(trouble: StandbyTrouble | None) -> Wire | None:
    if trouble is None:
        return None
    lost_at = rfc3339(trouble.failed_at, fraction=True)
    return {"failures": trouble.failures, "failedAt": lost_at, "cause": trouble.cause[:MAX_TEXT]}


def _read_standby(wire: Mapping[str, Any]) -> StandbyTrouble | None:
    failures, failed_at = raw.integer(wire, "failures"), parse_time(wire.get("failedAt"))
    if failures is None or failed_at is None:
        return None
    return StandbyTrouble(failures=failures, failed_at=failed_at, cause=raw.text(wire, "cause") or "")


def _workers(counts: WorkerCounts) -> Wire:
    return _present(
        desired=counts.desired,
        ready=counts.ready,
        active=counts.active,
        succeeded=counts.succeeded,
        failed=counts.failed,
        standby=counts.standby,
        summary=f"{counts.ready + counts.succeeded}/{counts.desired}",
    )


def _read_workers(wire: Mapping[str, Any]) -> WorkerCounts:
    names = ("desired", "ready", "active", "succeeded", "failed")
    return WorkerCounts(**{n: raw.integer(wire, n) or 0 for n in names}, standby=raw.integer(wire, "standby"))


def _progress(progress: Progress, eta_seconds: int | None) -> Wire:
    metrics = {str(k): m for k, v in progress.metrics.items() if (m := measured(v)) is not None}
    return _present(
        step=_whole(progress.step) or 0,
        totalSteps=_whole(progress.total_steps),
        epoch=_whole(progress.epoch),
        loss=measured(progress.loss),
        samplesPerSecond=measured(progress.samples_per_second),
        etaSeconds=eta_seconds,
        metrics=dict(sorted(metrics.items())[:MAX_METRICS]) or None,
        best=_best(progress.best),
        ended=_ended(progress.ended),
    )


def _best(best: Best | None) -> Wire | None:
    if best is None or measured(best.value) is None:
        return None
    return {"metric": best.metric, "value": measured(best.value), "step": _whole(best.step) or 0}


def _read_best(wire: Mapping[str, Any]) -> Best | None:
    metric, value, step = raw.text(wire, "metric"), raw.number(wire, "value"), raw.integer(wire, "step")
    return Best(metric=metric, value=value, step=step) if metric and value is not None and step is not None else None


def _ended(ending: Ending | None) -> Wire | None:
    return {"reason": ending.reason, "message": ending.message[:MAX_TEXT]} if ending is not None else None


def _read_ended(wire: Mapping[str, Any]) -> Ending | None:
    reason, message = raw.text(wire, "reason"), raw.text(wire, "message")
    return Ending(reason=reason, message=message or "") if reason else None


def _read_progress(wire: Mapping[str, Any]) -> Progress | None:
    step = raw.integer(wire, "step")
    if step is None:
        return None
    metrics = raw.obj(wire, "metrics")
    return Progress(
        step=step,
        total_steps=raw.integer(wire, "totalSteps"),
        epoch=raw.integer(wire, "epoch"),
        loss=raw.number(wire, "loss"),
        samples_per_second=raw.number(wire, "samplesPerSecond"),
        metrics={k: v for k in metrics if (v := raw.number(metrics, k)) is not None},
        best=_read_best(raw.obj(wire, "best")),
        ended=_read_ended(raw.obj(wire, "ended")),
    )


def _checkpoint(checkpoint: Checkpoint) -> Wire:
    return _present(
        step=_whole(checkpoint.step) or 0,
        digest=str(checkpoint.digest)[:MAX_TEXT],
        time=str(checkpoint.time)[:64],
        path=str(checkpoint.path)[:MAX_TEXT],
        incarnation=_whole(checkpoint.incarnation) or 0,
        bytes=_whole(checkpoint.bytes) or 0,
        seconds=measured(checkpoint.seconds) or 0.0,
        stalledSeconds=measured(checkpoint.stalled_seconds) or 0.0,
    )


def _read_checkpoint(wire: Mapping[str, Any]) -> Checkpoint | None:
    step, digest = raw.integer(wire, "step"), raw.text(wire, "digest")
    if step is None or digest is None:
        return None
    return Checkpoint(
        step=step,
        digest=digest,
        path=raw.text(wire, "path") or "",
        incarnation=raw.integer(wire, "incarnation") or 0,
        time=raw.text(wire, "time") or "",
        bytes=raw.integer(wire, "bytes") or 0,
        seconds=raw.number(wire, "seconds") or 0.0,
        stalled_seconds=raw.number(wire, "stalledSeconds") or 0.0,
    )


def _goodput(ledger: Ledger) -> Wire | None:
    seconds = {f"{bucket}Seconds": ledger.seconds[bucket] for bucket in Bucket if bucket in ledger.seconds}
    found = _present(
        current=str(ledger.current) if ledger.current is not None else None,
        since=rfc3339(ledger.since, fraction=True) if ledger.since is not None else None,
        ratio=ledger.ratio,
        **seconds,
    )
    return found or None


def _read_goodput(wire: Mapping[str, Any]) -> Ledger:
    seconds = {b: s for b in Bucket if (s := raw.number(wire, f"{b}Seconds")) is not None}
    current, since = wire.get("current"), parse_time(wire.get("since"))
    running = Bucket(current) if current in set(Bucket) and since is not None else None
    return Ledger(running, since if running is not None else None, MappingProxyType(seconds))


def _recovery(recovery: Recovery | None) -> Wire | None:
    if recovery is None:
        return None
    fields = _present(
        incarnation=recovery.incarnation,
        cause=recovery.cause[:MAX_TEXT],
        rank=_whole(recovery.rank),
        pod=recovery.pod,
        node=recovery.node,
        exitCode=_whole(recovery.exit_code),
        traceback=recovery.traceback[-MAX_TEXT:] if recovery.traceback else None,
        failedAt=rfc3339(recovery.failed_at, fraction=True),
        step=_whole(recovery.step),
        restoredStep=_whole(recovery.restored_step),
        source=recovery.source,
        detectSeconds=measured(recovery.detect_seconds),
        recoverSeconds=measured(recovery.recover_seconds),
        lostSteps=_whole(recovery.lost_steps),
        drill=recovery.drill,
    )
    return fields | {"class": str(recovery.failure_class)}


def _read_recovery(wire: Mapping[str, Any]) -> Recovery | None:
    """None when it cannot be understood: nothing is decided by it, and a guessed cause would be a lie."""
    incarnation, failed_at = raw.integer(wire, "incarnation"), parse_time(wire.get("failedAt"))
    if incarnation is None or failed_at is None or wire.get("class") not in set(FailureClass):
        return None
    return Recovery(
        incarnation=incarnation,
        cause=raw.text(wire, "cause") or "",
        failure_class=FailureClass(wire["class"]),
        failed_at=failed_at,
        rank=raw.integer(wire, "rank"),
        pod=raw.text(wire, "pod"),
        node=raw.text(wire, "node"),
        exit_code=raw.integer(wire, "exitCode"),
        traceback=raw.text(wire, "traceback"),
        step=raw.integer(wire, "step"),
        restored_step=raw.integer(wire, "restoredStep"),
        source=raw.text(wire, "source"),
        detect_seconds=raw.number(wire, "detectSeconds"),
        recover_seconds=raw.number(wire, "recoverSeconds"),
        lost_steps=raw.integer(wire, "lostSteps"),
        drill=raw.text(wire, "drill"),
    )


def _node_failure(failure: NodeFailure) -> Wire:
    at = rfc3339(failure.at, fraction=True)
    return {"node": failure.node, "class": str(failure.failure_class), "at": at}


def _read_node_failures(recovery: Mapping[str, Any]) -> Iterator[NodeFailure]:
    for found in raw.objects(recovery, "nodeFailures"):
        node, at = raw.text(found, "node"), parse_time(found.get("at"))
        if node is not None and at is not None and found.get("class") in set(FailureClass):
            yield NodeFailure(node, FailureClass(found["class"]), at)
