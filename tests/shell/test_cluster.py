"""The HTTP client against a server that answers as API servers and what stands before them do."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration

from disttrain_operator.shell import cluster as module
from disttrain_operator.shell import errors
from disttrain_operator.shell.cluster import Cluster, load
from disttrain_operator.shell.kinds import CLAIMS, EVENTS, JOBS, PODS, Kind

Answer = tuple[int, Any]
Reply = web.StreamResponse | Awaitable[web.StreamResponse]


class Server:
    """Answers with what was laid ready; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[web.Request], Reply]] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.counted: list[tuple[str, str, int]] = []
        self.retry_after = "0"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.method, request.path_qs, dict(request.headers), body))
        answer = self.answers.pop(0)
        if callable(answer):
            found = answer(request)
            return await found if isinstance(found, Awaitable) else found
        code, found = answer
        return web.json_response(found, status=code, headers={"Retry-After": self.retry_after} if code == 429 else {})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    yield Server()


@pytest.fixture
async def cluster(server: Server) -> AsyncIterator[Cluster]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    configuration.api_key["BearerToken"] = "Bearer secret"
    async with Cluster(configuration, lambda *found: server.counted.append(found)) as made:
        yield made
    await runner.cleanup()


def a_status(reason: str, message: str = "because") -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "reason": reason, "message": message}


async def test_the_paths_of_the_api(server: Server, cluster: Cluster) -> None:
    job = {"metadata": {"name": "mnist", "namespace": "team", "resourceVersion": "7"}}
    server.answers = [(200, {}), (201, {}), (200, {}), (200, {"kind": "Pod"})]
    await cluster.get(CLAIMS, "team", "data")
    await cluster.create(EVENTS, {"metadata": {"name": "e", "namespace": "team"}})
    await cluster.replace(JOBS, job, "status")
    await cluster.delete(PODS, "team", "mnist-0", "uid-0", grace=0)
    assert [(method, path) for method, path, _, _ in server.asked] == [
        ("GET", "/api/v1/namespaces/team/persistentvolumeclaims/data"),
        ("POST", "/apis/events.k8s.io/v1/namespaces/team/events"),
        ("PUT", "/apis/disttrain.dev/v1alpha1/namespaces/team/disttrainjobs/mnist/status"),
        ("DELETE", "/api/v1/namespaces/team/pods/mnist-0"),
    ]
    assert server.asked[3][3]["preconditions"] == {"uid": "uid-0"} and server.asked[3][3]["gracePeriodSeconds"] == 0
    assert all(headers["Authorization"] == "Bearer secret" for _, _, headers, _ in server.asked)
    assert server.counted[0] == ("get", "persistentvolumeclaims", 200)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (403, "Forbidden", errors.Refused),
        (422, "Invalid", errors.Refused),
        (500, "InternalError", errors.ClusterError),
    ],
)
async def test_every_refusal_has_its_class(
    server: Server, cluster: Cluster, code: int, reason: str, kind: type
) -> None:
    server.answers = [(code, a_status(reason, "pods is full"))]
    with pytest.raises(errors.ClusterError, match="pods is full") as caught:
        await cluster.get(PODS, "team", "mnist-0")
    assert type(caught.value) is kind and caught.value.code == code


async def test_too_many_requests_are_asked_again(server: Server, cluster: Cluster) -> None:
    server.answers = [(429, a_status("TooManyRequests")), (429, a_status("TooManyRequests")), (201, {"kind": "Pod"})]
    assert await cluster.create(PODS, {"metadata": {"name": "a", "namespace": "team"}}) == {"kind": "Pod"}
    assert len(server.asked) == 3


async def test_too_many_for_too_long_is_the_queues_matter(server: Server, cluster: Cluster) -> None:
    server.answers = [(429, a_status("TooManyRequests"))] * module.TRIES
    with pytest.raises(errors.ClusterError) as caught:
        await cluster.get(PODS, "team", "a")
    assert caught.value.code == 429 and len(server.asked) == module.TRIES


async def test_the_time_that_the_server_names_is_waited_for(server: Server, cluster: Cluster) -> None:
    server.retry_after = "1"
    server.answers = [(429, a_status("TooManyRequests")), (201, {"kind": "Pod"})]
    began = time.monotonic()
    await cluster.create(PODS, {"metadata": {"name": "a", "namespace": "team"}})
    assert time.monotonic() - began >= 1.0, "not a moment before"


async def test_a_wait_that_is_too_long_for_a_request_is_left_to_the_queue(
    server: Server, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAIT", 0.01)
    server.retry_after = "60"
    server.answers = [(429, a_status("TooManyRequests"))] * module.TRIES
    with pytest.raises(errors.ClusterError) as caught:
        await cluster.get(PODS, "team", "a")
    assert caught.value.retry_after == 60.0, "and the queue is told"


async def test_a_write_that_is_done_after_the_time_out_may_have_been_done(
    server: Server, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    made, hurry = [], asyncio.Event()

    async def dawdle(request: web.Request) -> web.StreamResponse:
        made.append(await request.json())
        await hurry.wait()
        return web.json_response({"kind": "Pod"}, status=201)

    server.answers = [dawdle, (409, a_status("AlreadyExists", "there is one"))]
    pod = {"metadata": {"name": "a", "namespace": "team"}}
    try:
        with pytest.raises(errors.Unanswered, match="no reply: .*Timeout"):
            await cluster.create(PODS, pod)
        with pytest.raises(errors.AlreadyExists):  # what the next pass finds
            await cluster.create(PODS, pod)
    finally:
        hurry.set()
    assert made == [pod] and server.counted == [("create", "pods", 0), ("create", "pods", 409)]


async def test_no_reply_may_mean_that_it_was_done(server: Server, cluster: Cluster) -> None:
    def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.answers = [hang_up]
    with pytest.raises(errors.Unanswered):
        await cluster.create(PODS, {"metadata": {"name": "a", "namespace": "team"}})
    assert server.counted == [("create", "pods", 0)]


async def test_a_proxy_that_speaks_html_is_an_error_in_words(server: Server, cluster: Cluster) -> None:
    server.answers = [lambda request: web.Response(status=502, text="<html>Bad Gateway</html>")]
    with pytest.raises(errors.ClusterError, match="Bad Gateway"):
        await cluster.get(PODS, "team", "a")


async def test_a_listing_is_read_page_by_page_and_metadata_only(server: Server, cluster: Cluster) -> None:
    def page(name: str, token: str) -> Answer:
        meta = {"namespace": "team", "name": name, "uid": f"uid-{name}", "resourceVersion": "5"}
        return 200, {"metadata": {"continue": token}, "items": [{"metadata": meta}]}

    server.answers = [page("a", "next"), page("b", "")]
    found = [item async for item in cluster.listing(PODS, "team", "disttrain.dev/job")]
    assert [(i.name, i.uid, i.version) for i in found] == [("a", "uid-a", "5"), ("b", "uid-b", "5")]
    assert "PartialObjectMetadataList" in server.asked[0][2]["Accept"]
    assert "labelSelector=disttrain.dev/job" in server.asked[0][1] and "continue=next" in server.asked[1][1]


async def test_a_delete_that_is_done_at_once_says_nothing_of_the_object(server: Server, cluster: Cluster) -> None:
    server.answers = [(200, {"kind": "Status", "status": "Success"}), (200, {"kind": "Pod"})]
    assert await cluster.delete(JOBS, "team", "mnist", "u") is None
    assert await cluster.delete(PODS, "team", "mnist-0", "u") == {"kind": "Pod"}


async def test_credentials_for_those_who_bring_a_client(cluster: Cluster) -> None:
    found = await cluster.credentials()
    assert found.token == "secret" and found.server.startswith("http://127.0.0.1")


@pytest.mark.parametrize(("minor", "number"), [("37", 37), ("33+", 33), (None, 0)])
async def test_the_servers_version(server: Server, cluster: Cluster, minor: str | None, number: int) -> None:
    server.answers = [(200, {"major": "1", "minor": minor})]
    assert await cluster.minor_version() == number
    assert server.asked[0][1] == "/version"


async def test_a_kubeconfig_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = base64.b64encode(b"PEM").decode()
    config = {
        "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://198.18.0.2:6443", "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"token": "abc"}}],
    }  # fmt: skip
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    configuration = await load()
    assert configuration.host == "https://198.18.0.2:6443"
    assert (await configuration.auth_settings())["BearerToken"]["value"] == "Bearer abc"


def test_paths_of_kinds_without_a_namespace() -> None:
    assert Kind("api/v1", "pods").path() == "/api/v1/pods"


async def test_the_operators_own_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet renews it on disk. Every minute it is looked at; the minute is played."""
    loader = kube_config.incluster_config
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("old")
    ca.write_text("PEM")
    for name, value in {"SERVICE_TOKEN_FILENAME": token, "SERVICE_CERT_FILENAME": ca}.items():
        monkeypatch.setattr(loader, name, str(value))
    monkeypatch.setattr(module, "TOKEN_FILE", token)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "198.18.0.2")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    configuration = await load()
    token.write_text("new")
    assert (await configuration.auth_settings())["BearerToken"]["value"] == "bearer old"
    later = SimpleNamespace(now=lambda: datetime.now() + timedelta(seconds=61))  # noqa: DTZ005, TID251 - as the client does
    monkeypatch.setattr(loader, "datetime", SimpleNamespace(datetime=later, timedelta=timedelta))
    assert (await configuration.auth_settings())["BearerToken"]["value"] == "bearer new"
