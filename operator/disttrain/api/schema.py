"""Markers on the API models that JSON Schema has no words for: CEL rules, list kinds, what is not built yet.

They travel in pydantic's `json_schema_extra` under `x-disttrain-*` keys and are turned into Kubernetes' extensions by
`disttrain.api.crd`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

NOT_IMPLEMENTED = "x-disttrain-not-implemented"
IMPLEMENTED = "x-disttrain-implemented"
IMMUTABLE = "x-disttrain-immutable"
RULES = "x-kubernetes-validations"

MAX_WORKERS = 1024
"""The largest group: names, seats and counts in status are bounded by it."""


class ApiModel(BaseModel):
    """Base of every API type: camelCase on the wire, unknown fields are errors, values never change."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule with the sentence a user sees when it does not hold."""

    rule: str
    message: str
    field_path: str | None = None

    def to_schema(self) -> dict[str, str]:
        """As `x-kubernetes-validations` wants it."""
        found = {"rule": self.rule, "message": self.message}
        return found | ({"fieldPath": self.field_path} if self.field_path else {})


def rules(*found: Rule) -> dict[str, Any]:
    """For `ConfigDict(json_schema_extra=…)` or `Field(json_schema_extra=…)`."""
    return {RULES: [r.to_schema() for r in found]}


def not_implemented() -> dict[str, Any]:
    """The field is part of the API but has no behaviour yet: setting it is refused at apply time, never ignored."""
    return {NOT_IMPLEMENTED: True}


def only(*values: str | int) -> dict[str, Any]:
    """Of the field's values only these have behaviour yet; the others are refused at apply time."""
    return {IMPLEMENTED: list(values)}


def immutable(*, without: str | None = None) -> dict[str, Any]:
    """May not change after creation; `without`: unless this other field of the same object is set."""
    return {IMMUTABLE: without or True}


def _as_text(value: object) -> object:
    """`cpu: 4` is a number in YAML and stays one in the API server."""
    return str(value) if type(value) is int else value


Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[+-]?([0-9]+|[0-9]+[.][0-9]*|[.][0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$",
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_as_text),
]
"""A Kubernetes resource quantity: `500m`, `2`, `4Gi`."""

DnsLabel = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
EnvName = Annotated[str, Field(max_length=256, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")]
