"""To a real API server, by the official client's configuration: kubeconfig, exec plugins, proxies, in-cluster accounts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from disttrain.sdk import errors
from disttrain.sdk.execute import Execution, start
from disttrain.sdk.transport import JSON, Request, Response

CONNECT_SECONDS = 10
READ_SECONDS = 60
"""For plain requests. Streams wait for ever: silence is not an error there."""
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class HttpTransport:
    """The official client's connection pool, with raw JSON: typed models cost five to ten times the time."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._pool = api.rest_client.pool_manager
        if not api.configuration.verify_ssl:  # the kubeconfig says so; said once there, not at every request
            import urllib3

            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def send(self, request: Request) -> Response:
        """One request, one answer."""
        answer = self._call(request, stream=False)
        body = _decode(answer.data)
        if answer.status >= 400:
            raise errors.from_status(answer.status, body)
        return Response(answer.status, body)

    def stream(self, request: Request) -> HttpLines:
        """A request whose answer goes on."""
        answer = self._call(request, stream=True)
        if answer.status >= 400:
            raise errors.from_status(answer.status, _decode(answer.read()))
        return HttpLines(answer)

    def execute(self, path: str, command: Sequence[str], container: str) -> Execution:
        """Start a command in a container."""
        configuration = self._api.configuration
        url = configuration.host.rstrip("/") + path
        return start(configuration, url, self._authorization(), command, container)

    def _authorization(self) -> dict[str, str]:
        settings = (
            self._api.configuration.auth_settings().values()
        )  # asks an exec plugin for a new token when it is time
        return {s["key"]: s["value"] for s in settings if s.get("in") == "header" and s.get("value")}

    def _call(self, request: Request, *, stream: bool) -> Any:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        configuration = self._api.configuration
        url = configuration.host.rstrip("/") + request.path + (f"?{urlencode(request.query)}" if request.query else "")
        headers = {"Accept": f"{JSON}, */*", "Content-Type": request.content_type, "User-Agent": "disttrain-sdk"}
        headers |= self._authorization()
        try:
            return self._pool.request(
                request.method, url, headers=headers, preload_content=not stream, retries=False, redirect=False,
                body=None if request.body is None else json.dumps(request.body),
                timeout=Timeout(connect=CONNECT_SECONDS, read=None if stream else READ_SECONDS),
            )  # fmt: skip
        except HTTPError as problem:
            raise errors.Unreachable(
                f"the API server at {configuration.host} does not answer: {_innermost(problem)}",
                hint="is the cluster up, and is this the right context? (--context, --kubeconfig, KUBECONFIG)",
            ) from problem


class HttpLines:
    """Lines of one response."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        rest = b""
        try:
            for chunk in self._response.stream(amt=None, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        except (HTTPError, OSError, ValueError) as problem:
            if self._closed:
                return
            raise errors.Unreachable(f"the connection was cut: {_innermost(problem)}") from problem
        finally:
            self._response.close()  # never back to the pool half read
        if rest:
            yield rest

    def close(self) -> None:
        """Also wakes a thread that waits for the next line."""
        self._closed = True
        try:
            self._response.shutdown()
        except (ValueError, OSError, AttributeError):  # ended already, or not started
            self._response.close()


def connect(kubeconfig: str | Path | None = None, context: str | None = None) -> tuple[HttpTransport, str]:
    """Transport and namespace, found as kubectl finds them: --kubeconfig, KUBECONFIG, ~/.kube/config, the pod's account."""
    import yaml
    from kubernetes import client, config

    explicit = kubeconfig is not None or context is not None or bool(os.environ.get("KUBECONFIG"))
    file = Path(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config").expanduser()
    if not explicit and not file.exists() and IN_CLUSTER_NAMESPACE.exists():
        settings = client.Configuration()
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        return HttpTransport(client.ApiClient(settings)), IN_CLUSTER_NAMESPACE.read_text().strip()
    where = str(kubeconfig or os.environ.get("KUBECONFIG") or "") or None
    try:
        api = config.new_client_from_config(config_file=where, context=context)  # type: ignore[no-untyped-call]
        contexts, active = config.list_kube_config_contexts(config_file=where)  # type: ignore[no-untyped-call]
    except (config.ConfigException, yaml.YAMLError, TypeError, ValueError, KeyError, OSError) as problem:
        what = " ".join(str(problem).split())
        raise errors.NoCluster(f"no usable kubeconfig at {file}: {what}", hint=_NO_CLUSTER) from problem
    chosen = next((c for c in contexts if c["name"] == context), active)
    return HttpTransport(api), (chosen.get("context") or {}).get("namespace") or "default"


_NO_CLUSTER = "set KUBECONFIG or --kubeconfig; for a local cluster: make cluster-up"


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _innermost(problem: BaseException) -> str:
    reason = getattr(problem, "reason", None)
    return _innermost(reason) if isinstance(reason, BaseException) else str(problem).rsplit(": ", 1)[-1]
