"""Build a dataclass from JSON that somebody else wrote: every type checked, one kind of error.

An agent speaks from inside a user's container, so what it sends is untrusted. What passes here can be compared,
stored and written to Kubernetes without a second look: integers fit 64 bits, floats are finite, text is valid UTF-8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[Any], Any]

INT64 = 2**63
"""Kubernetes integers have 64 bits; Python's have no end."""


def parse_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object, or ValueError: also for text that is nested so deep that the parser gives up."""
    try:
        raw = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    return raw


def build(kind: type[T], raw: object) -> T:
    """An instance of a dataclass; unknown keys are ignored, missing ones take their default, else ValueError."""
    if not isinstance(raw, dict):
        raise ValueError(f"{kind.__name__}: not an object")
    values = {}
    for name, read in _readers(cast(Any, kind)).items():
        if name in raw:
            try:
                values[name] = read(raw[name])
            except ValueError as error:
                raise ValueError(f"{kind.__name__}.{name}: {error}") from error
    try:
        return kind(**values)
    except TypeError as error:  # a key without a default is missing
        raise ValueError(f"{kind.__name__}: {error}") from error


@cache
def _readers(kind: Any) -> dict[str, Reader]:
    hints = get_type_hints(kind)
    return {f.name: _reader(hints[f.name]) for f in fields(kind)}


def _reader(hint: Any) -> Reader:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (inner,) = (a for a in args if a is not type(None))
        return _optional_float if inner is float else _optional(_reader(inner))
    if origin is tuple:
        return _tuple(_reader(args[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _numbers if args[1] is float else _texts
    if isinstance(hint, type) and is_dataclass(hint):
        return partial(build, hint)
    if issubclass(hint, Enum):
        return partial(hint)
    return _SCALARS[hint]


def _optional(read: Reader) -> Reader:
    return lambda raw: None if raw is None else read(raw)


def _tuple(read: Reader) -> Reader:
    def items(raw: Any) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise ValueError("not a list")
        return tuple(read(item) for item in raw)

    return items


def _numbers(raw: Any) -> dict[str, float]:
    """A name → number mapping; what is not finite is left out, as JSON has no word for it."""
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    read = {_text(name): _optional_float(value) for name, value in raw.items()}
    return {name: value for name, value in read.items() if value is not None}


def _texts(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    return {_text(name): _text(value) for name, value in raw.items()}


def _optional_float(raw: Any) -> float | None:
    """NaN and infinity become None: Kubernetes refuses a status that holds one."""
    return None if raw is None or not math.isfinite(_number(raw)) else float(raw)


def _float(raw: Any) -> float:
    if not math.isfinite(_number(raw)):
        raise ValueError("not finite")
    return float(raw)


def _number(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError("not a number")
    if isinstance(raw, int):
        _int(raw)
    return raw


def _int(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError("not an integer")
    if not -INT64 <= raw < INT64:
        raise ValueError("does not fit 64 bits")
    return raw


def _bool(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError("not true or false")
    return raw


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("not text")
    return raw if raw.isascii() else raw.encode("utf-8", "replace").decode()


_SCALARS: dict[Any, Reader] = {int: _int, float: _float, bool: _bool, str: _text}
