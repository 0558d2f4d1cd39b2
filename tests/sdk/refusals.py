"""What a real API server (1.37) says about wrong jobs, word for word."""

from __future__ import annotations

from typing import Any

Raw = dict[str, Any]
KNOWN = (
    "image",
    "command",
    "entrypoint",
    "args",
    "evaluation",
    "workers",
    "suspend",
    "checkpoint",
    "recovery",
    "processesPerWorker",
)
"""The fields of spec that the stories use."""
DECODING = 'DistTrainJob in version "v1alpha1" cannot be handled as a DistTrainJob: strict decoding error: '
STOPPED_EARLY = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)
ONE_OF = "Invalid value: set exactly one of entrypoint (package.module:build) and command (a torchrun-style program)"


def status_body(code: int, reason: str, message: str, **details: Any) -> Raw:
    body: Raw = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return body | ({"details": details} if details else {})


def not_found(kind: str, name: str) -> tuple[int, Raw]:
    group = ".disttrain.dev" if kind == "disttrainjobs" else ""
    return 404, status_body(404, "NotFound", f'{kind}{group} "{name}" not found', name=name, kind=kind)


def refusal(job: Raw) -> tuple[int, Raw] | None:
    """Unknown fields, a wrong type, too few workers; None: it is fine."""
    if unknown := [key for key in job["spec"] if key not in KNOWN]:
        fields = ", ".join(f'unknown field "spec.{key}"' for key in unknown)
        return 400, status_body(400, "BadRequest", DECODING + fields)
    workers = job["spec"].get("workers", 1)
    if isinstance(workers, str):
        wrong = 'Invalid value: "string": spec.workers in body must be of type integer: "string"'
        return _invalid(("FieldValueTypeInvalid", "spec.workers", wrong), ("FieldValueInvalid", "<nil>", STOPPED_EARLY))
    if workers < 1:
        wrong = f"Invalid value: {workers}: spec.workers in body should be greater than or equal to 1"
        return _invalid(("FieldValueInvalid", "spec.workers", wrong), ("FieldValueInvalid", "spec", ONE_OF))
    return None


def _invalid(*causes: tuple[str, str, str]) -> tuple[int, Raw]:
    listed = [{"reason": reason, "field": field, "message": message} for reason, field, message in causes]
    return 422, status_body(422, "Invalid", "DistTrainJob is invalid", causes=listed)
