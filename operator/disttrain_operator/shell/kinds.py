"""The kinds of objects that the operator touches, and the few verbs it needs: the seam where tests put another cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from disttrain_contract import labels

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """Where a kind lives in the API."""

    root: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        """The URL path of a collection, an object or a subresource."""
        parts = [self.root, f"namespaces/{namespace}" if namespace else None, self.plural, name, sub]
        return "/" + "/".join(p for p in parts if p)


JOBS = Kind(f"apis/{labels.API_VERSION}", labels.PLURAL)
PODS = Kind("api/v1", "pods")
SERVICES = Kind("api/v1", "services")
CLAIMS = Kind("api/v1", "persistentvolumeclaims")
EVENTS = Kind("apis/events.k8s.io/v1", "events")
LEASES = Kind("apis/coordination.k8s.io/v1", "leases")
TOKEN_REVIEWS = Kind("apis/authentication.k8s.io/v1", "tokenreviews")

VERSION = Kind("", "version")


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a listing of metadata."""

    namespace: str
    name: str
    uid: str
    version: str


class Api(Protocol):
    """Every method raises ClusterError and nothing else."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw:
        """The object."""

    async def create(self, kind: Kind, body: Raw) -> Raw:
        """The object as it was made."""

    async def replace(self, kind: Kind, body: Raw, sub: str | None = None) -> Raw:
        """Write over, guarded by the body's resourceVersion."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, grace: int | None = None) -> Raw | None:
        """The object while it is on its way out; None when it is gone at once. The UID is a precondition."""

    def listing(self, kind: Kind, namespace: str | None, selector: str = "") -> AsyncIterator[Listed]:
        """Who is there now, by a consistent read."""
