"""Models → CustomResourceDefinition: structural schema, CEL rules, printer columns.

`python -m disttrain.api.crd` prints the YAML; `make crd` writes it into `crds/`. A test regenerates and compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from disttrain.api import job, schema
from disttrain.api.spec import DistTrainJobSpec
from disttrain.api.status import DistTrainJobStatus
from disttrain_contract import labels

Schema = dict[str, Any]

PRINTER_COLUMNS = (
    ("State", "string", ".status.state", 0),
    ("Workers", "string", ".status.workers.summary", 0),
    ("Step", "integer", ".status.progress.step", 0),
    ("Loss", "number", ".status.progress.loss", 0),
    ("Recoveries", "integer", ".status.recovery.count", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Checkpoint", "integer", ".status.checkpoint.lastCommitted.step", 1),
    ("ETA", "integer", ".status.progress.etaSeconds", 1),
    ("Incarnation", "integer", ".status.incarnation", 1),
)
DROPPED = frozenset({"title", "const", "$defs", "additionalProperties"})


class SchemaError(Exception):
    """A model says something that a structural schema cannot; the developer must change the model."""


def structural(model: type[BaseModel], path: str = "") -> Schema:
    """The OpenAPI v3 schema of a model, with everything inlined and Kubernetes' own extensions. `path` begins its messages."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _node(raw, raw.get("$defs", {}), path)


def _node(raw: Schema, defs: Schema, path: str) -> Schema:
    raw = _resolve(raw, defs)
    if raw.get("x-kubernetes-int-or-string"):
        # A quantity: the API server accepts 2 and "2"; anyOf is how kube writes that.
        kept = {k: raw[k] for k in ("description", "pattern", "maxLength") if k in raw}
        return kept | {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    node = {
        k: v
        for k, v in raw.items()
        if k not in DROPPED and not k.startswith("x-disttrain-") and k not in ("anyOf", "properties", "items")
    }
    if "const" in raw:
        node["enum"] = [raw["const"]]
    for bound in ("Minimum", "Maximum"):  # draft 2020 numbers → OpenAPI 3.0 booleans
        if (limit := node.pop(f"exclusive{bound}", None)) is not None:
            node |= {bound.lower(): limit, f"exclusive{bound}": True}
    if "properties" in raw:
        node["properties"] = {name: _node(child, defs, f"{path}.{name}") for name, child in raw["properties"].items()}
        if found := [*node.get(schema.RULES, []), *_field_rules(raw, defs, path)]:
            node[schema.RULES] = found
    if "items" in raw:
        node["items"] = _node(raw["items"], defs, f"{path}[]")
    if isinstance(values := raw.get("additionalProperties"), dict):
        node["additionalProperties"] = _node(values, defs, f"{path}{{}}")
    return node


def _resolve(raw: Schema, defs: Schema) -> Schema:
    """Follow references, drop the null branch of optionals, merge what the field says over what the type says."""
    if "$ref" in raw:
        target = defs[raw["$ref"].rsplit("/", 1)[1]]
        return _resolve({**target, **{k: v for k, v in raw.items() if k != "$ref"}}, defs)
    if "anyOf" in raw:
        branches = [b for b in raw["anyOf"] if b.get("type") != "null"]
        rest = {k: v for k, v in raw.items() if k != "anyOf" and not (k == "default" and v is None)}
        if len(branches) == 1:
            return _resolve({**branches[0], **rest}, defs)
        if {b.get("type") for b in branches} == {"integer", "string"}:
            return {**rest, "x-kubernetes-int-or-string": True, **_word_of(branches)}
        raise SchemaError(f"a union that a structural schema cannot say: {raw['anyOf']}")
    return {k: v for k, v in raw.items() if not (k == "default" and v is None)}


def _word_of(branches: list[Schema]) -> Schema:
    """`int | Literal["auto"]`: the only string allowed, as a pattern (patterns do not touch integers)."""
    words = [b.get("const") or "|".join(b.get("enum", [])) for b in branches if b.get("type") == "string"]
    return {"pattern": f"^({words[0]})$"} if words and words[0] else {}


def _field_rules(raw: Schema, defs: Schema, path: str) -> Iterator[Schema]:
    """Rules that a field asks for but that only its parent can check (a missing field has no rules of its own)."""
    for name, child in raw["properties"].items():
        full = f"{path}.{name}".lstrip(".")
        if child.get(schema.NOT_IMPLEMENTED):
            yield {"rule": f"!has(self.{name})", "message": f"not implemented yet: {full}", "fieldPath": f".{name}"}
        if allowed := child.get(schema.IMPLEMENTED):
            words = ", ".join(str(a) for a in allowed)
            test = " || ".join(f"self.{name} == {_literal(a)}" for a in allowed)
            yield {
                "rule": f"!has(self.{name}) || {test}",
                "message": f"not implemented yet: {full} other than {words}",
                "fieldPath": f".{name}",
            }
        if frozen := child.get(schema.IMMUTABLE):
            yield _unchanged(name, full, frozen if isinstance(frozen, str) else None)


def _unchanged(name: str, full: str, without: str | None) -> Schema:
    """`without`: the field that lifts the rule."""
    rule = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
    unless = f" without {full.removesuffix(name)}{without}" if without else ""
    return {
        "rule": f"has(self.{without}) || ({rule})" if without else rule,
        "message": f"{full} cannot be changed after creation{unless}: delete the job and apply it again, it goes on from its checkpoint",
        "fieldPath": f".{name}",
    }


def _literal(value: str | int) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def crd() -> Schema:
    """The whole CustomResourceDefinition."""
    spec, status = structural(DistTrainJobSpec, "spec"), structural(DistTrainJobStatus, "status")
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{labels.PLURAL}.{labels.GROUP}"},
        "spec": {
            "group": labels.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": labels.KIND, "listKind": f"{labels.KIND}List", "plural": labels.PLURAL,
                "singular": labels.SINGULAR, "shortNames": [labels.SHORT_NAME], "categories": ["all"],
            },
            "versions": [
                {
                    "name": labels.VERSION, "served": True, "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*c) for c in PRINTER_COLUMNS],
                    "schema": {"openAPIV3Schema": _root(spec, status)},
                }
            ],
        },
    }  # fmt: skip


def _root(spec: Schema, status: Schema) -> Schema:
    return {
        "type": "object",
        "description": job.DistTrainJob.__doc__,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        schema.RULES: [r.to_schema() for r in job.NAME_RULES],
    }


def _column(name: str, kind: str, path: str, priority: int) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": priority} if priority else {})


HEADER = "# Generated by `make crd` from the models in operator/disttrain/api. Do not edit.\n"


def crd_yaml() -> str:
    """The file in `crds/`."""
    return HEADER + yaml.safe_dump(crd(), sort_keys=False, width=120)


if __name__ == "__main__":
    print(crd_yaml(), end="")
