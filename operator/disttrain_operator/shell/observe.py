"""Raw objects → what the planner sees. Total: whatever the API server sends becomes a value, never an exception."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from disttrain.api.spec import DistTrainJobSpec
from disttrain_contract import labels, names
from disttrain_contract.drill import read_announcement
from disttrain_contract.failures import FailureClass
from disttrain_operator.core.model import Claim, ClaimSpec, CleanPodPolicy, Job, Rule, Spec, Verdict
from disttrain_operator.manifests import pod as pod_manifest
from disttrain_operator.manifests import quantity, raw, status
from disttrain_operator.manifests.errors import SpecError
from disttrain_operator.manifests.meta import parse_time

Raw = Mapping[str, Any]

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
DEFAULTS = Spec(workers=1)
ANYWHERE = pod_manifest.Stream(url="")


def job(found: Raw, known: Job | None = None) -> Job:
    """A DistTrainJob. What cannot be understood is said in `invalid`; the rest of it is read as well as it can be.
    `known`, an earlier sight, spares reading a spec again that is still the same (and keeping it twice)."""
    meta, spec = raw.obj(found, "metadata"), raw.obj(found, "spec")
    name = raw.text(meta, "name") or ""
    drill = read_announcement(raw.text(raw.obj(meta, "annotations"), labels.DRILL))
    if known is not None and known.uid == meta.get("uid") and known.raw_spec == spec:
        return replace(
            known,
            generation=raw.integer(meta, "generation") or 0,
            status=status.from_wire(found.get("status")),
            deleting="deletionTimestamp" in meta,
            drill=drill,
        )
    seen = Job(
        namespace=raw.text(meta, "namespace") or "",
        name=name,
        uid=raw.text(meta, "uid") or "",
        generation=raw.integer(meta, "generation") or 0,
        created=parse_time(meta.get("creationTimestamp")) or LONG_AGO,
        spec=_spec(spec, name),
        status=status.from_wire(found.get("status")),
        deleting="deletionTimestamp" in meta,
        invalid=_problem(spec),
        raw_spec=spec,
        drill=drill,
    )
    return seen if seen.invalid is not None else _rendered(seen)


def _rendered(seen: Job) -> Job:
    """A spec that cannot become a pod is found here, before anything is made."""
    try:
        pod_manifest.pod(seen, 0, 1, ANYWHERE)
    except SpecError as error:
        return replace(seen, invalid=str(error))
    return seen


def _problem(spec: Raw) -> str | None:
    """One sentence about the first thing in the spec that this operator does not understand."""
    try:
        DistTrainJobSpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("spec", *first["loc"]))
        if first["type"] == "extra_forbidden":
            return f"{where}: this operator does not know the field: upgrade the operator, or remove the field"
        return f"{where}: {first['msg']}: the operator and the CustomResourceDefinition differ in version"
    return None


def _spec(spec: Raw, name: str) -> Spec:
    recovery = raw.obj(spec, "recovery")
    budget = raw.obj(recovery, "budget")
    failures = raw.integer(budget, "failures")
    checkpoint = raw.obj(spec, "checkpoint")
    policy = spec.get("cleanPodPolicy")
    return Spec(
        workers=max(1, raw.integer(spec, "workers") or 1),
        min_workers=raw.integer(raw.obj(spec, "elastic"), "minWorkers"),
        standby=max(0, raw.integer(spec, "standby") or 0),
        processes=raw.integer(spec, "processesPerWorker"),
        suspend=spec.get("suspend") is True,
        active_deadline=_seconds(spec, "activeDeadlineSeconds"),
        startup_deadline=_seconds(spec, "startupDeadlineSeconds"),
        ttl=_seconds(spec, "ttlSecondsAfterFinished"),
        clean_pod_policy=CleanPodPolicy(policy) if policy in set(CleanPodPolicy) else CleanPodPolicy.RUNNING,
        rules=tuple(_rules(recovery)),
        max_failures=failures if failures is not None else DEFAULTS.max_failures,
        budget_window=_seconds(budget, "windowSeconds"),
        refill_on_progress=budget.get("refillOnProgress") is not False,
        claim=_claim_spec(raw.obj(checkpoint, "volume"), name) if checkpoint else None,
        keep=raw.integer(checkpoint, "keep") or 3,
        managed_by=raw.text(spec, "managedBy"),
        avoid_marked_nodes=recovery.get("avoidMarkedNodes") is not False,
    )


def _rules(recovery: Raw) -> Iterator[Rule]:
    for rule in raw.objects(recovery, "rules"):
        action, reason = rule.get("action"), rule.get("onReason")
        if action in set(Verdict):
            yield Rule(
                action=Verdict(action),
                exit_codes=frozenset(c for c in raw.items(rule, "onExitCodes") if isinstance(c, int)),
                reason=FailureClass(reason) if reason in set(FailureClass) else None,
            )


def _seconds(spec: Raw, key: str) -> timedelta | None:
    found = raw.integer(spec, key)
    return timedelta(seconds=found) if found is not None else None


def _claim_spec(volume: Raw, job_name: str) -> ClaimSpec | None:
    if existing := raw.text(volume, "claimName"):
        return ClaimSpec(name=existing)
    size = volume.get("size")
    if not isinstance(size, str | int):
        return None
    modes = tuple(str(m) for m in raw.items(volume, "accessModes"))
    return ClaimSpec(
        name=names.claim_name(job_name),
        size=str(size),
        storage_class=raw.text(volume, "storageClassName"),
        access_modes=modes or ("ReadWriteMany",),
    )


def claim(found: Raw) -> Claim:
    """A PersistentVolumeClaim: what was granted, or before that what was asked for."""
    meta, state = raw.obj(found, "metadata"), raw.obj(found, "status")
    modes = raw.items(state, "accessModes") or raw.items(raw.obj(found, "spec"), "accessModes")
    size = quantity.parse(raw.obj(state, "capacity").get("storage"))
    return Claim(
        name=raw.text(meta, "name") or "",
        phase=raw.text(state, "phase") or "Pending",
        access_modes=tuple(str(m) for m in modes),
        capacity_bytes=int(size) if size is not None else None,
        deleting="deletionTimestamp" in meta,
    )


def job_of(found: Raw) -> str | None:
    """The job that a child says it belongs to."""
    return raw.text(raw.obj(raw.obj(found, "metadata"), "labels"), labels.JOB)
