"""Kubernetes quantities: `500m`, `2`, `4Gi`, `1e3`."""

from __future__ import annotations

import re
from decimal import Decimal

_FORM = re.compile(r"^([+-]?[0-9.]+)(?:([KMGTPE]i)|([numkMGTPE])|([eE][+-]?[0-9]+))?$")
_BINARY: dict[str, int] = {f"{letter}i": 1 << (10 * power) for power, letter in enumerate("KMGTPE", start=1)}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def parse(value: object) -> Decimal | None:
    """None when it is not a quantity: the API server has checked it, an old object may still surprise."""
    found = _FORM.match(str(value).strip()) if isinstance(value, str | int | float) else None
    if found is None or found[1].count(".") > 1 or not any(c.isdigit() for c in found[1]):
        return None
    number, binary, decimal, exponent = Decimal(found[1]), found[2], found[3], found[4]
    if binary:
        return number * _BINARY[binary]
    if decimal:
        return number.scaleb(_DECIMAL[decimal])
    return number.scaleb(int(exponent[1:])) if exponent else number


def mebibytes(size: int) -> str:
    """Rounded down, at least 1Mi."""
    return f"{max(1, size >> 20)}Mi"
