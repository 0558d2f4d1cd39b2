"""Nested state ↔ JSON plus named tensors. Never pickle: what JSON and tensors cannot say is refused when saving."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from disttrain_runtime.errors import TaskError

MAX_DEPTH = 64
"""Real state nests about five deep; a bomb nests thousands."""


def take_apart(state: Mapping[str, Any]) -> tuple[bytes, dict[str, dict[str, Tensor]]]:
    """A JSON structure with the tensors' places, and for each top-level key its tensors by name."""
    tensors: dict[str, dict[str, Tensor]] = {}
    tree = {key: _encode(value, (), tensors.setdefault(key, {}), key) for key, value in state.items()}
    return json.dumps(tree, allow_nan=False).encode(), {key: found for key, found in tensors.items() if found}


def tensors_in(state: Mapping[str, Any]) -> list[Tensor]:
    """All of them."""
    _, groups = take_apart(state)
    return [tensor for tensors in groups.values() for tensor in tensors.values()]


def put_together(structure: bytes, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """The inverse. Raises ValueError when the two do not fit together."""
    try:
        tree = json.loads(structure)
        return {key: _decode(node, tensors.get(key, {}), 0) for key, node in tree.items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"structure and tensors do not fit together ({type(error).__name__}: {error})") from error


def _encode(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor], top: str) -> Any:
    if isinstance(value, Tensor):
        name = ".".join(path)
        while name in tensors or not name:  # "a.b" + "c" and "a" + "b.c" read alike
            name += "'"
        tensors[name] = value.detach()
        return {"tensor": name}
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) and type(key) is not int:
                raise _unsayable(f"a key of type {type(key).__name__}", top, path)
        return {"dict": [[key, _encode(item, (*path, str(key)), tensors, top)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(item, (*path, str(i)), tensors, top) for i, item in enumerate(value)]}
    raise _unsayable(f"a {type(value).__module__}.{type(value).__qualname__}", top, path)


def _decode(node: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("structure nests too deep")
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise ValueError("structure has a bare list")
        return node
    ((kind, value),) = node.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "float":
            return float(value)
        case "dict":
            return {key: _decode(item, tensors, depth + 1) for key, item in value}
        case "list":
            return [_decode(item, tensors, depth + 1) for item in value]
        case "tuple":
            return tuple(_decode(item, tensors, depth + 1) for item in value)
        case _:
            raise ValueError(f"structure has an unknown kind {str(kind)[:40]!r}")


def _unsayable(what: str, top: str, path: tuple[str, ...]) -> TaskError:
    place = ".".join((top, *path))
    return TaskError(
        f"{place} cannot be saved: it is {what}; a checkpoint holds tensors, numbers, strings, lists and dicts, never pickles"
    )
