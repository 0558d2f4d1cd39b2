"""What programs have said, made safe to show: control characters as `^[`, `^M`, `\\x9b`, as `kubectl describe` shows them.

A traceback or a message of a pod may hold escape sequences that move the cursor, rewrite what stands there or set the
terminal's title. Whoever reads a status must see what is in it, and nothing else. Pure.
"""

from __future__ import annotations

from typing import Any

_SHOWN = {code: f"^{chr(code + 64)}" for code in range(32) if chr(code) not in "\n\t"}
_SHOWN |= {127: "^?"} | {code: f"\\x{code:02x}" for code in range(128, 160)}


def visible(text: str) -> str:
    """Lines and tabs stay."""
    return text.translate(_SHOWN)


def all_visible(value: Any) -> Any:
    """Every string in a JSON value."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): all_visible(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [all_visible(inner) for inner in value]
    return value
