"""A small Kubernetes API over real HTTP: list, watch, create, apply, delete, logs, and faults on demand."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from tests.sdk.fake_exec import PROTOCOL, Execs, accepted, play
from tests.sdk.refusals import Raw, not_found, refusal, status_body

JOBS = "disttrainjobs"
_PATH = re.compile(
    r"^/(?:api/v1|apis/(?:disttrain\.dev/v1alpha1|coordination\.k8s\.io/v1))(?:/namespaces/(?P<ns>[^/]+))?/(?P<kind>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>log|exec|eviction))?$"
)


@dataclass
class Log:
    """What a container has printed so far."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False
    uid: str = ""


@dataclass
class Fault:
    """The next request like this is answered with an error."""

    method: str
    path: str
    status: int
    body: Any


class FakeApi:
    """The state, and the server in front of it."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.history: list[tuple[int, str, str, Raw]] = []
        self.logs: dict[str, Log] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[Fault] = []
        self.execs = Execs()
        self.on_delete: Callable[[str, str, Raw], object] = lambda kind, name, options: None
        """Also for an eviction: (kind, name, DeleteOptions)."""
        self.installed = True
        self.changed = threading.Condition()
        self.epoch = 0
        """Raised to cut every open stream."""
        self.gone_before = 0
        """Watches from an older resourceVersion are answered 410."""
        self._version = 100
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: Path, namespace: str = "ml") -> Path:
        """A kubeconfig with the contexts `test` and `other` (namespace `elsewhere`)."""
        context = {"cluster": "c", "user": "u"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
            "contexts": [
                {"name": "test", "context": context | {"namespace": namespace}},
                {"name": "other", "context": context | {"namespace": "elsewhere"}},
            ],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        return path

    # -- the world changes

    def put(self, kind: str, raw: Raw) -> Raw:
        """Create or replace, as an operator, a kubelet or a user would."""
        with self.changed:
            raw = copy.deepcopy(raw)
            meta = raw["metadata"]
            key = (kind, meta.setdefault("namespace", "ml"), meta["name"])
            self._version += 1
            old = self.objects.get(key)
            meta.setdefault("uid", old["metadata"]["uid"] if old else f"uid-{self._version}")
            meta.setdefault("creationTimestamp", "2030-01-01T00:00:00Z")
            if kind == JOBS:
                same = old is not None and old.get("spec") == raw.get("spec")
                meta["generation"] = (old["metadata"]["generation"] + (0 if same else 1)) if old else 1
            meta["resourceVersion"] = str(self._version)
            self.objects[key] = raw
            self._tell("MODIFIED" if old else "ADDED", kind, raw)
            return raw

    def status(self, name: str, **status: Any) -> Raw:
        """Write parts of a job's status."""
        job = copy.deepcopy(self.objects[JOBS, "ml", name])
        job["status"] = job.get("status", {}) | status
        return self.put(JOBS, job)

    def remove(self, kind: str, name: str, namespace: str = "ml") -> None:
        with self.changed:
            raw = self.objects.pop((kind, namespace, name))
            self._version += 1
            raw = copy.deepcopy(raw)
            raw["metadata"]["resourceVersion"] = str(self._version)
            self._tell("DELETED", kind, raw)

    def _tell(self, change: str, kind: str, raw: Raw) -> None:
        self.history.append((self._version, change, kind, copy.deepcopy(raw)))
        self.changed.notify_all()

    def print(self, pod: str, *lines: str, at: str = "2030-01-01T00:00:00.{n:09d}Z") -> None:
        """Append to a pod's log; times go up by a nanosecond a line unless `at` says otherwise."""
        with self.changed:
            log = self.logs.setdefault(pod, Log())
            for line in lines:
                log.lines.append((at.format(n=sum(len(entry.lines) for entry in self.logs.values()) + 1), line))
            self.changed.notify_all()

    def end_log(self, pod: str) -> None:
        with self.changed:
            self.logs.setdefault(pod, Log()).ended = True
            self.changed.notify_all()

    # -- faults

    def fail(self, method: str, path: str, status: int, body: Any = "") -> None:
        """Answer the next request whose path matches with an error."""
        self.faults.append(Fault(method, path, status, body))

    def cut(self) -> None:
        """Every open stream breaks, as when the API server restarts."""
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()

    def forget_history(self) -> None:
        """etcd was compacted: watches from before now are answered 410 Gone."""
        with self.changed:
            self.gone_before = self._version
            self.cut()

    def fault_for(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and re.search(fault.path, path):
                self.faults.remove(fault)
                return fault
        return None

    def version(self) -> int:
        return self._version


def selected(raw: Raw, query: dict[str, str]) -> bool:
    def look(path: str) -> str:
        found: Any = raw
        for part in path.split("."):
            found = found.get(part, {}) if isinstance(found, dict) else {}
        return str(found or "")

    fields = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
    labels = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
    have = raw["metadata"].get("labels") or {}
    return all(look(path) == value for path, value in fields.items()) and all(
        have.get(k) == v for k, v in labels.items()
    )


def merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return copy.deepcopy(new)
    return {k: merged(old.get(k), new[k]) if k in new else old[k] for k in {**old, **new}}


class Answers:
    """How requests change the world. Pure but for the FakeApi it is given."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api

    def create(self, kind: str, ns: str, query: dict[str, str], body: Raw) -> tuple[int, Raw]:
        if no := refusal(body):
            return no
        name = body["metadata"].get("name") or body["metadata"]["generateName"] + "x7k2p"
        if (kind, ns, name) in self.api.objects:
            message = f'{kind}.disttrain.dev "{name}" already exists'
            return 409, status_body(409, "AlreadyExists", message, name=name, kind=kind)
        body["metadata"]["name"] = name
        return 201, body if query.get("dryRun") else self.api.put(kind, body)

    def patch(self, kind: str, ns: str, name: str, query: dict[str, str], body: Raw, apply: bool) -> tuple[int, Raw]:
        old = self.api.objects.get((kind, ns, name))
        if old is None and not apply:
            return not_found(kind, name)
        new = merged(old or {}, body)
        if no := refusal(new):
            return no
        return (200 if old else 201), new if query.get("dryRun") else self.api.put(kind, new)

    def delete(self, kind: str, ns: str, name: str, options: Raw) -> tuple[int, Raw]:
        if (kind, ns, name) not in self.api.objects:
            return not_found(kind, name)
        raw = self.api.objects[kind, ns, name]
        if (options.get("preconditions") or {}).get("uid", raw["metadata"]["uid"]) != raw["metadata"]["uid"]:
            return 409, status_body(409, "Conflict", "the UID in the precondition does not match", name=name, kind=kind)
        self.api.remove(kind, name, ns)
        self.api.on_delete(kind, name, options)
        return 200, raw

    def get(self, kind: str, ns: str | None, name: str | None, query: dict[str, str]) -> tuple[int, Raw]:
        if name is not None:
            raw = self.api.objects.get((kind, str(ns), name))
            return (200, raw) if raw else not_found(kind, name)
        items = [o for (k, n, _), o in self.api.objects.items() if k == kind and ns in (None, n) and selected(o, query)]
        return 200, {"kind": "List", "metadata": {"resourceVersion": str(self.api.version())}, "items": items}

    def watch(self, kind: str, ns: str | None, query: dict[str, str]) -> Iterator[bytes]:
        api, epoch = self.api, self.api.epoch
        seen = int(query["resourceVersion"])
        if seen < api.gone_before:
            yield json.dumps(
                {"type": "ERROR", "object": status_body(410, "Expired", "too old resource version")}
            ).encode()
            return
        while True:
            with api.changed:
                if api.epoch != epoch:
                    raise ConnectionAbortedError
                news = [h for h in api.history if h[0] > seen and h[2] == kind]
                if not news:
                    api.changed.wait(0.2)
            for version, change, _, raw in news:
                seen = version
                if ns in (None, raw["metadata"]["namespace"]) and selected(raw, query):
                    yield json.dumps({"type": change, "object": raw}).encode()

    def log(self, pod: str, query: dict[str, str]) -> Iterator[bytes]:
        api, epoch = self.api, self.api.epoch
        log = api.logs.setdefault(pod, Log())
        start = max(0, len(log.lines) - int(query["tailLines"])) if "tailLines" in query else 0
        since = query.get("sinceTime", "")[:19]  # whole seconds, as the kubelet has it
        while True:
            with api.changed:
                if api.epoch != epoch:
                    raise ConnectionAbortedError
                news = log.lines[start:]
                if not news and (log.ended or "follow" not in query or api.logs.get(pod) is not log):
                    return
                if not news:
                    api.changed.wait(0.2)
            start += len(news)
            for at, text in news:
                if at[:19] >= since:
                    yield f"{at} {text}".encode()


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a class in a function: the server's way to give it the state
    answers = Answers(api)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

        def do_PATCH(self) -> None:
            self._serve("PATCH")

        def do_DELETE(self) -> None:
            self._serve("DELETE")

        def _serve(self, method: str) -> None:
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query))
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            api.requests.append((method, url.path, query))
            if fault := api.fault_for(method, url.path):
                return self._answer(fault.status, fault.body)
            found = _PATH.match(url.path)
            if found is None or (found["kind"] == JOBS and not api.installed):
                return self._answer(404, "404 page not found")
            return self._dispatch(method, found, query, json.loads(raw) if raw else {})

        def _dispatch(self, method: str, at: re.Match[str], query: dict[str, str], body: Raw) -> None:
            kind, ns, name = at["kind"], at["ns"], at["name"]
            if at["sub"] == "log":
                return self._log(name, query)
            if at["sub"] == "exec":
                return self._exec(name)
            if at["sub"] == "eviction":
                return self._answer(*answers.delete(kind, ns, name, body.get("deleteOptions") or {}))
            if query.get("watch"):
                return self._stream(answers.watch(kind, ns, query))
            calls: dict[str, Callable[[], tuple[int, Raw]]] = {
                "GET": lambda: answers.get(kind, ns, name, query),
                "POST": lambda: answers.create(kind, ns, query, body),
                "PATCH": lambda: answers.patch(
                    kind, ns, name, query, body, "apply-patch" in self.headers["Content-Type"]
                ),
                "DELETE": lambda: answers.delete(kind, ns, name, body),
            }
            return self._answer(*calls[method]())

        def _log(self, pod: str, query: dict[str, str]) -> None:
            if ("pods", "ml", pod) not in api.objects:
                return self._answer(*not_found("pods", pod))
            if query.get("previous"):
                message = f'previous terminated container "trainer" in pod "{pod}" not found'
                return self._answer(400, status_body(400, "BadRequest", message))
            return self._stream(answers.log(pod, query))

        def _exec(self, pod: str) -> None:
            if ("pods", "ml", pod) not in api.objects:
                self._answer(*not_found("pods", pod))
                return
            command = [word for name, word in parse_qsl(urlsplit(self.path).query) if name == "command"]
            api.execs.seen.append((pod, command))
            self.send_response(101)
            for name, value in (
                ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Protocol", PROTOCOL),
                ("Sec-WebSocket-Accept", accepted(self.headers["Sec-WebSocket-Key"])),
            ):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            self.wfile.flush()
            self.close_connection = True
            with suppress(OSError):  # the other side listens no more
                play(self.connection, api.execs.answer(pod, command))

        def _answer(self, status: int, body: Any) -> None:
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, lines: Iterator[bytes]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            with suppress(BrokenPipeError, ConnectionResetError, ConnectionAbortedError):
                self.wfile.flush()
                for line in lines:
                    self.wfile.write(f"{len(line) + 1:x}\r\n".encode() + line + b"\n\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

    return Handler


def until(look: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true answer of `look`."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found
