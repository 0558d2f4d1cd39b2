"""The few requests we make of the API server, with the standard library (a client library takes a second to import)."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dev.cluster import addresses
from dev.cluster.command import Trouble

Object = dict[str, Any]

_PLURALS = {
    "Service": ("/api/v1", "services"),
    "Node": ("/api/v1", "nodes"),
    "PersistentVolume": ("/api/v1", "persistentvolumes"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "StorageClass": ("/apis/storage.k8s.io/v1", "storageclasses"),
}


class ApiError(Exception):
    """The API server said no; `status` is its HTTP code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


def path_of(kind: str, name: str = "", namespace: str = "") -> str:
    """The URL path of an object or of its collection."""
    base, plural = _PLURALS[kind]
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{base}{scope}/{plural}" + (f"/{name}" if name else "")


class Api:
    """A client with the administrator's certificate."""

    def __init__(self, pki: Path, server: str = addresses.API) -> None:
        self.server = server
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        # No proxy of the machine's environment: this server is on the machine.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def request(
        self, method: str, path: str, body: Object | None = None, *, content: str = "application/json"
    ) -> Object:
        """One request; the answer as a dictionary."""
        with self._open(method, path, body, content, timeout=10) as answer:
            return dict(json.loads(answer.read() or b"{}"))

    def get(self, path: str) -> Object:
        """Read."""
        return self.request("GET", path)

    def apply(self, obj: Object) -> None:
        """Make it so, whatever is there (server-side apply)."""
        meta = obj["metadata"]
        path = path_of(obj["kind"], meta["name"], meta.get("namespace", ""))
        query = "?fieldManager=disttrain-dev&force=true"
        self.request("PATCH", path + query, obj, content="application/apply-patch+yaml")

    def is_ready(self) -> bool:
        """Whether /readyz says ok."""
        try:
            with self._open("GET", "/readyz", None, "application/json", timeout=2) as answer:
                return bool(answer.status == 200)
        except (ApiError, OSError, http.client.HTTPException):
            return False

    def watch(self, path: str, seconds: int) -> Iterator[Object]:
        """The events of a collection, for a while; bookmarks and errors end it early."""
        joiner = "&" if "?" in path else "?"
        with self._open(
            "GET", f"{path}{joiner}watch=1&timeoutSeconds={seconds}", None, "", timeout=seconds + 10
        ) as answer:
            for raw in answer:
                yield dict(json.loads(raw))

    def _open(self, method: str, path: str, body: Object | None, content: str, *, timeout: float) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content} if data else {}
        request = urllib.request.Request(self.server + path, data=data, method=method, headers=headers)
        try:
            return self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read().decode(errors="replace")[:500]) from None
        except urllib.error.URLError as error:
            raise ConnectionError(f"the API server at {self.server} does not answer: {error.reason}") from None


def connect(pki: Path) -> Api:
    """A client, or a clear word that there is no cluster."""
    if not (pki / "admin.crt").exists():
        raise Trouble("no cluster is running here: start one with `python -m dev.cluster up`")
    return Api(pki)
