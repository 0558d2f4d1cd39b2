"""Reading of untyped specs: every getter survives what an older or newer API version may have put there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from disttrain_operator.manifests.errors import SpecError


def obj(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A nested object; empty when it is absent or something else."""
    found = raw.get(key)
    return found if isinstance(found, Mapping) else {}


def objects(raw: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a list."""
    return (o for o in items(raw, key) if isinstance(o, Mapping))


def items(raw: Mapping[str, Any], key: str) -> list[Any]:
    """A list; empty when absent or something else."""
    found = raw.get(key)
    return found if isinstance(found, list) else []


def text(raw: Mapping[str, Any], key: str) -> str | None:
    """A non-empty string or None."""
    found = raw.get(key)
    return found if isinstance(found, str) and found else None


def strings(raw: Mapping[str, Any], key: str) -> dict[str, str]:
    """A map of strings, such as labels."""
    return {str(k): str(v) for k, v in obj(raw, key).items()}


def integer(raw: Mapping[str, Any], key: str) -> int | None:
    """A whole number or None; booleans are not numbers here."""
    found = raw.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def number(raw: Mapping[str, Any], key: str) -> float | None:
    """Any number or None."""
    found = raw.get(key)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def required(raw: Mapping[str, Any], key: str, path: str) -> str:
    """A string that must be there."""
    found = text(raw, key)
    if found is None:
        raise SpecError(f"{path}.{key}", "is missing")
    return found
