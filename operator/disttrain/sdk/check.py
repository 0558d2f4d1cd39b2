"""What the API server would say about a job, without an API server.

Two sieves: the models (types, unknown fields, ranges), then the CRD's own CEL rules, evaluated on the defaulted object. As the
API server does, the second one is only asked when the first one found nothing.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from disttrain.sdk.errors import FieldError

Schema = Mapping[str, Any]
RULES = "x-kubernetes-validations"
UNKNOWN = "unknown field"


def check(manifest: Mapping[str, Any]) -> list[FieldError]:
    """Everything that is wrong with it, by field."""
    return _by_models(manifest) or _by_rules(manifest)


def _by_models(manifest: Mapping[str, Any]) -> list[FieldError]:
    from pydantic import ValidationError

    from disttrain.api import DistTrainJob

    try:
        DistTrainJob.model_validate(manifest, strict=True)
    except ValidationError as problem:
        said: dict[str, list[str]] = {}
        shown: dict[str, str] = {}
        for error in problem.errors(include_url=False):
            field = dotted(error["loc"])
            said.setdefault(field, []).append(_sentence(error))
            shown[field] = _shown(error)
        joined = {field: " or ".join(dict.fromkeys(sentences)) + shown[field] for field, sentences in said.items()}
        return [hinted(FieldError(field, message)) for field, message in joined.items()]
    return []


def dotted(location: Sequence[str | int]) -> str:
    """`spec.volumes[0].name`; the branches of a union, which pydantic names too, are left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("int", "str", "float", "bool") and not part.startswith("literal["):
            text += f".{part}"
    return text.lstrip(".")


def _sentence(error: Any) -> str:
    match error["type"]:
        case "extra_forbidden":
            return UNKNOWN
        case "missing":
            return "is missing"
        case "string_pattern_mismatch":
            return f"must match {error['ctx']['pattern']}"
        case _:
            return str(error["msg"]).replace("Input should be", "must be").replace("String should", "must")


def _shown(error: Any) -> str:
    plain = isinstance(error["input"], str | int | float | bool) and error["type"] != "extra_forbidden"
    return f", not {error['input']!r}" if plain else ""


def _by_rules(manifest: Mapping[str, Any]) -> list[FieldError]:
    return list(_broken(completed(manifest), _schema(), ""))


def completed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the schema's defaults filled in, as the API server stores it."""
    found: dict[str, Any] = defaulted(manifest, _schema())
    return found


def _schema() -> Schema:
    from disttrain.api.crd import crd

    found: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def defaulted(value: Any, schema: Schema) -> Any:
    """`completed`, for one node of the schema."""
    if isinstance(value, Mapping):
        fields = schema.get("properties", {})
        full = {k: defaulted(v, fields.get(k, schema.get("additionalProperties", {}))) for k, v in value.items()}
        for name, field in fields.items():
            if name not in full and "default" in field:
                full[name] = defaulted(copy.deepcopy(field["default"]), field)
        return full
    if isinstance(value, list):
        return [defaulted(item, schema.get("items", {})) for item in value]
    return value


def _broken(value: Any, schema: Schema, path: str) -> Iterator[FieldError]:
    from cel import evaluate

    for rule in schema.get(RULES, ()):
        if "oldSelf" in rule["rule"]:
            continue  # about changes; nothing has changed yet
        if not evaluate(rule["rule"], {"self": value}):
            yield FieldError((path + rule.get("fieldPath", "")).lstrip("."), rule["message"])
    if isinstance(value, Mapping):
        for name, field in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(inner, Mapping):
                yield from _broken(field, inner, f"{path}.{name}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _broken(item, schema.get("items", {}), f"{path}[{i}]")


def hinted(error: FieldError) -> FieldError:
    """An unknown field with the field that was probably meant."""
    near = _suggestion(error.field) if error.message == UNKNOWN else ""
    return FieldError(error.field, f"{UNKNOWN}, did you mean {near}?") if near else error


def _suggestion(field: str) -> str:
    """For an unknown `spec.wrkers`: `spec.workers`; empty when nothing is like it."""
    *parents, name = field.split(".")
    node = _schema()
    for parent in parents:
        node = node.get("properties", {}).get(parent.partition("[")[0], {})
        node = node.get("items", node) if "[" in parent else node
    near = difflib.get_close_matches(name, node.get("properties", {}), n=1)
    return ".".join((*parents, near[0])) if near else ""
