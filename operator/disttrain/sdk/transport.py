"""The seam between the SDK and HTTP: three methods. Tests put a server or a fake behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from disttrain.sdk.execute import Execution

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the Kubernetes API."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content_type: str = JSON


@dataclass(frozen=True, slots=True)
class Response:
    """Status and decoded JSON."""

    status: int
    body: Any


class Lines(Protocol):
    """Lines of a watch or a log, as they come."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """End it; from any thread, while another one waits for the next line."""


class Transport(Protocol):
    """How the SDK speaks to an API server. All methods raise `Refused` on 4xx and 5xx, `Unreachable` without an answer."""

    def send(self, request: Request) -> Response:
        """One request, one answer."""

    def stream(self, request: Request) -> Lines:
        """A request whose answer goes on."""

    def execute(self, path: str, command: Sequence[str], container: str) -> Execution:
        """Start a command in a container."""
