"""The operator's settings: environment variables, read once, written by the Helm chart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "DISTTRAIN_"
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text")


class SettingsError(Exception):
    """Whoever started the operator must set something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them."""

    namespace: str
    """Where the operator itself lives, and its Lease."""
    pod: str
    """Its name: who holds the Lease, who reports events."""
    stream_url: str
    """What agents dial: wss://service.namespace.svc:port, or ws:// without TLS (tests)."""
    stream_port: int = 8443
    health_port: int = 8080
    tls_dir: Path | None = None
    """tls.crt, tls.key, ca.crt. None for ws://."""
    watch_namespaces: tuple[str, ...] = ()
    """Empty: all."""
    lease_name: str = "disttrain-operator"
    trusted_nodes: frozenset[str] = frozenset()
    """Nodes that are not avoided whatever failed on them; "*": all."""
    log_level: str = "info"
    log_format: str = "json"

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, pod: str) -> Settings:
        """`pod` is used where DISTTRAIN_OPERATOR_POD is not set. Raises SettingsError that names the variable."""

        def read(name: str, default: str | None = None) -> str:
            value = env.get(PREFIX + name) or default
            if value is None:
                raise SettingsError(f"{PREFIX}{name} is not set")
            return value

        url = read("STREAM_URL")
        if not url.startswith(("ws://", "wss://")):
            raise SettingsError(f"{PREFIX}STREAM_URL: {url!r} is neither ws:// nor wss://")
        return cls(
            namespace=read("OPERATOR_NAMESPACE"),
            pod=read("OPERATOR_POD", pod),
            stream_url=url,
            stream_port=_port("STREAM_PORT", read("STREAM_PORT", "8443")),
            health_port=_port("HEALTH_PORT", read("HEALTH_PORT", "8080")),
            tls_dir=Path(read("TLS_DIR")) if url.startswith("wss://") else None,
            watch_namespaces=_names(env, "WATCH_NAMESPACES"),
            trusted_nodes=frozenset(_names(env, "TRUSTED_NODES")),
            lease_name=read("LEASE_NAME", "disttrain-operator"),
            log_level=_one_of("LOG_LEVEL", read("LOG_LEVEL", "info").lower(), LEVELS),
            log_format=_one_of("LOG_FORMAT", read("LOG_FORMAT", "json").lower(), FORMATS),
        )


def _names(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """A list with commas, each name once."""
    found = (n.strip() for n in env.get(PREFIX + name, "").split(","))
    return tuple(dict.fromkeys(n for n in found if n))


def _port(name: str, text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise SettingsError(f"{PREFIX}{name}: {text!r} is not a port")
    return int(text)


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise SettingsError(f"{PREFIX}{name}: {text!r} is not one of {', '.join(allowed)}")
    return text
