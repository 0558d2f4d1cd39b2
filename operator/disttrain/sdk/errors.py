"""What can go wrong between you and the cluster.

DisttrainError            one sentence; `.hint` says how to mend it
├── BadInput              the file or an argument is wrong: edit it
├── NoCluster             no kubeconfig, or it cannot be used
├── Unreachable           the API server does not answer
├── TimedOut              it did not happen in time; it may still happen
└── Refused               the API server said no (`.status`, `.fields`)
    ├── NotAllowed        401, 403: ask for rights
    ├── NotFound          404: no such job, namespace or API
    ├── Conflict          409: somebody else owns the field or holds the name
    └── Invalid           400, 422: the job is wrong, `.fields` say where
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class DisttrainError(Exception):
    """Base of all errors of the SDK."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadInput(DisttrainError):
    """The caller must change a file or an argument."""


class NoCluster(DisttrainError):
    """There is no usable kubeconfig."""


class Unreachable(DisttrainError):
    """The API server does not answer."""


class TimedOut(DisttrainError):
    """It did not happen in time."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that the API server found wrong."""

    field: str
    message: str


class Refused(DisttrainError):
    """The API server said no."""

    def __init__(self, message: str, *, status: int, fields: tuple[FieldError, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.fields = fields


class NotAllowed(Refused):
    """The caller lacks a right."""


class NotFound(Refused):
    """No such object, namespace or API."""


class Conflict(Refused):
    """Somebody else owns the field or holds the name."""


class Invalid(Refused):
    """The object is wrong."""


NOT_INSTALLED = "install the operator: helm install disttrain ./helm/disttrain -n disttrain-system --create-namespace"
SKIPPED_RULES = "some validation rules were not checked"
"""The API server's note that it stopped early; not an error of the user."""
_STRICT = re.compile(r"(unknown|duplicate) field \"([^\"]+)\"")
_QUOTED_VALUE = re.compile(r"^(?:Invalid value|Required value|Unsupported value): ")


def from_status(code: int, body: Any) -> Refused:
    """A Kubernetes Status (or whatever a proxy answered) as one of our errors."""
    status: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    message = str(status.get("message") or body or f"HTTP {code}").strip()
    fields = _fields(status, message)
    match code:
        case 400 | 422:
            return Invalid("the API server refuses the job", status=code, fields=fields or (FieldError("", message),))
        case 401 | 403:
            return NotAllowed(
                message, status=code, hint="ask an administrator for the role disttrain-editor or disttrain-viewer"
            )
        case 404 if not status.get("details"):
            return NotFound("this cluster does not serve DistTrainJob", status=code, hint=NOT_INSTALLED)
        case 404:
            return NotFound(message, status=code)
        case 409:
            return Conflict(message, status=code, fields=fields)
        case _:
            return Refused(f"the API server answered {code}: {message}", status=code)


def _fields(status: Mapping[str, Any], message: str) -> tuple[FieldError, ...]:
    if strict := _STRICT.findall(message):
        return tuple(FieldError(name, f"{kind} field") for kind, name in strict)
    causes = (status.get("details") or {}).get("causes") or ()
    found = (_field(str(c.get("field") or ""), str(c.get("message") or "")) for c in causes)
    return tuple(error for error in found if SKIPPED_RULES not in error.message)


def _field(name: str, message: str) -> FieldError:
    name = "" if name == "<nil>" else name.lstrip(".")
    message = _QUOTED_VALUE.sub("", message).replace(f"{name} in body ", "") if name else _QUOTED_VALUE.sub("", message)
    return FieldError(name, message.removeprefix("null: "))
