"""Write the go.mod of a tool. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dev.cluster import versions
from dev.cluster.versions import Tool

# A requirement on a staging module, which lives inside the Kubernetes repository and is published under its own name.
_STAGING = re.compile(r"^\s*(?:require\s+)?(\S+) v0\.0\.0(?:\s+//.*)?$")


def staging_modules(kubernetes_go_mod: str) -> tuple[str, ...]:
    """The modules that k8s.io/kubernetes requires at exactly v0.0.0 (pseudo-versions are ordinary modules)."""
    found = {match[1] for text in kubernetes_go_mod.splitlines() if (match := _STAGING.match(text))}
    return tuple(sorted(found))


def go_mod(tool: Tool, staging: Iterable[str] = ()) -> str:
    """The go.mod of one of our own mains."""
    lines = [
        f"module disttrain.dev/{tool.name}",
        "",
        f"go {versions.MINIMUM_GO[0]}.{versions.MINIMUM_GO[1]}.0",
        f"godebug default=go{versions.MINIMUM_GO[0]}.{versions.MINIMUM_GO[1]}",
        "",
        f"require {tool.module} v{tool.version}",
    ]
    lines += [f"replace {module} => {module} v{versions.KUBERNETES_STAGING}" for module in staging]
    return "\n".join(lines) + "\n"
