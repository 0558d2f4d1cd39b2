"""The API server over HTTP. The only module that imports `kubernetes`: its configuration and transport, never its models
(typed pods cost five to ten times the memory and the time of plain dicts)."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from disttrain_operator.shell import errors
from disttrain_operator.shell.kinds import VERSION, Kind, Listed, Raw

TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
"""An API server answers in milliseconds; after this long the reply is lost."""
CONNECTIONS = 32
"""Requests under way at once: enough to hide the fsync of etcd (4 ms), too few to look like an attack."""
TRIES = 4
MAX_WAIT = 10.0
"""A 429 has not been executed, so it is asked again here, when the server said; longer waits are the queue's."""
PAGE = 500
METADATA = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

Count = Callable[[str, str, int], None]
"""(verb, resource, code): for metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How to reach the API server, for those who bring a client of their own (kopf)."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    token: str | None
    insecure: bool
    proxy: str | None


async def load() -> Configuration:
    """$KUBECONFIG if set, else the pod's service account, else ~/.kube/config."""
    configuration = Configuration()
    if "KUBECONFIG" not in os.environ and TOKEN_FILE.exists():
        kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        file = os.environ.get("KUBECONFIG")
        await kube_config.load_kube_config(config_file=file, client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.connection_pool_maxsize = CONNECTIONS
    # aiohttp would look for ~/.netrc in a thread at every request: a third of the time of a write.
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration


class Cluster:
    """Implements `kinds.Api`. Used as an async context manager."""

    def __init__(self, configuration: Configuration, count: Count = lambda verb, resource, code: None) -> None:
        self._configuration = configuration
        self._count = count
        self._rest = RESTClientObject(configuration)

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._rest.close()

    async def credentials(self) -> Credentials:
        """Fresh ones: a service account's token is renewed on disk."""
        settings = await self._configuration.auth_settings()
        bearer = settings.get("BearerToken", {}).get("value")
        return Credentials(
            server=self._configuration.host,
            ca_path=self._configuration.ssl_ca_cert,
            certificate_path=self._configuration.cert_file,
            private_key_path=self._configuration.key_file,
            token=bearer.split(" ", 1)[1].strip() if bearer else None,
            insecure=not self._configuration.verify_ssl,
            proxy=self._configuration.proxy,
        )

    async def minor_version(self) -> int:
        """37 for Kubernetes 1.37; providers write 37+."""
        found = str((await self._ask("get", VERSION, VERSION.path())).get("minor", ""))
        digits = found.rstrip("+")
        return int(digits) if digits.isdecimal() else 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw:
        """The object."""
        return await self._ask("get", kind, kind.path(namespace, name))

    async def create(self, kind: Kind, body: Raw) -> Raw:
        """The object as it was made."""
        return await self._ask("create", kind, kind.path(body["metadata"].get("namespace")), body)

    async def replace(self, kind: Kind, body: Raw, sub: str | None = None) -> Raw:
        """Write over, guarded by the body's resourceVersion."""
        meta = body["metadata"]
        return await self._ask("update", kind, kind.path(meta["namespace"], meta["name"], sub), body)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, grace: int | None = None) -> Raw | None:
        """The object while it is on its way out; None when it is gone at once."""
        options: Raw = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        reply = await self._ask("delete", kind, kind.path(namespace, name), options)
        return None if reply.get("kind") == "Status" else reply

    async def listing(self, kind: Kind, namespace: str | None, selector: str = "") -> AsyncIterator[Listed]:
        """Who is there now: metadata only, page by page, without a resourceVersion (a consistent read)."""
        token: str | None = ""
        while token is not None:
            query = {"limit": str(PAGE), "labelSelector": selector, "continue": token}
            path = f"{kind.path(namespace)}?{urlencode({k: v for k, v in query.items() if v})}"
            reply = await self._ask("list", kind, path, accept=METADATA)
            for item in reply.get("items") or []:
                meta = item.get("metadata", {})
                yield Listed(
                    meta.get("namespace", ""), meta["name"], meta.get("uid", ""), meta.get("resourceVersion", "")
                )
            token = reply.get("metadata", {}).get("continue") or None

    async def _ask(
        self, verb: str, kind: Kind, path: str, body: Raw | None = None, accept: str = "application/json"
    ) -> Raw:
        tries = 1
        while True:
            try:
                return await self._once(verb, kind, path, body, accept)
            except errors.ClusterError as error:
                if error.code != 429 or tries == TRIES:
                    raise
                wait = min(1.0 if error.retry_after is None else error.retry_after, MAX_WAIT)
            tries += 1
            await asyncio.sleep(wait * random.uniform(1.0, 1.5))

    async def _once(self, verb: str, kind: Kind, path: str, body: Raw | None, accept: str) -> Raw:
        what = f"{verb} {path.partition('?')[0]}"
        headers = {"Accept": accept, "Content-Type": "application/json", "User-Agent": "disttrain-operator"}
        method = {"get": "GET", "list": "GET", "create": "POST", "update": "PUT", "delete": "DELETE"}[verb]
        try:
            if bearer := (await self._configuration.auth_settings()).get("BearerToken"):
                headers["Authorization"] = bearer["value"] or ""
            url = self._configuration.host + path
            reply = await self._rest.request(method, url, headers, body, _request_timeout=TIMEOUT)  # type: ignore[no-untyped-call]
            text = await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._count(verb, kind.plural, 0)
            raise errors.Unanswered(f"{what}: no reply: {str(error) or type(error).__name__}") from error
        self._count(verb, kind.plural, reply.status)
        return _parse(reply.status, text, reply.headers.get("Retry-After"), what)


def _parse(code: int, text: bytes, retry_after: str | None, what: str) -> Raw:
    try:
        found: Any = json.loads(text) if text else {}
    except ValueError:  # a proxy between us and the API server speaks HTML
        found = {"message": text[:200].decode(errors="replace")}
    answer: Raw = found if isinstance(found, dict) else {"message": str(found)[:200]}
    if code < 400:
        return answer
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    raise errors.of_reply(code, str(answer.get("reason", "")), str(answer.get("message", "")), seconds, what)
