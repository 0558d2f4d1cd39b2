"""A command inside a container: `pods/exec` over a WebSocket. No shell, no standard input."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disttrain.sdk import errors

STDOUT, STDERR, VERDICT = 1, 2, 3
"""Channels of the protocol; the last one carries a Kubernetes Status when the command has ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the command ended."""

    code: int
    stderr: str


class Execution:
    """A command that has been started. `close` leaves it to itself: it is not ended by that."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._text: dict[int, str] = {STDOUT: "", STDERR: "", VERDICT: ""}

    def line(self, seconds: float) -> str | None:
        """The next line of its output; None: it ended without. Raises TimedOut."""
        self._read(seconds, lambda: "\n" in self._text[STDOUT])
        line, newline, rest = self._text[STDOUT].partition("\n")
        if not newline:
            return None
        self._text[STDOUT] = rest
        return line

    def end(self, seconds: float) -> Ended:
        """Wait for it. Raises TimedOut, Unreachable when the connection was cut, Refused when it could not be started."""
        self._read(seconds, lambda: False)
        return Ended(exit_code(self._text[VERDICT]), self._text[STDERR].strip())

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def _read(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Until there is enough, or all is said."""
        end = time.monotonic() + seconds
        while True:
            self._take(0)
            if enough() or not self._socket.is_open():
                return
            if (left := end - time.monotonic()) <= 0:
                raise errors.TimedOut(f"the command in the pod has not answered for {seconds:.0f} s")
            self._take(left)

    def _take(self, seconds: float) -> None:
        """What has come, or comes first within that time."""
        from websocket import WebSocketException

        try:
            self._socket.update(timeout=seconds)
            for channel in self._text:
                self._text[channel] += self._socket.read_channel(channel)
        except (WebSocketException, OSError) as problem:
            raise errors.Unreachable(f"the connection into the pod was cut: {problem}") from problem


def start(
    configuration: Any, url: str, headers: Mapping[str, str], command: Sequence[str], container: str
) -> Execution:
    """Raises `Refused` when the API server says no, `Unreachable` when it says nothing."""
    from kubernetes.stream.ws_client import WSClient, get_websocket_url
    from websocket import WebSocketBadStatusException, WebSocketException

    query = [("container", container), ("stdout", "true"), ("stderr", "true"), ("command", list(command))]
    target = get_websocket_url(url, query)  # type: ignore[no-untyped-call]
    try:
        return Execution(WSClient(configuration, target, dict(headers), capture_all=False))  # type: ignore[no-untyped-call]
    except WebSocketBadStatusException as problem:
        raise errors.from_status(problem.status_code, _body(problem.resp_body)) from problem
    except (WebSocketException, OSError) as problem:
        raise errors.Unreachable(f"the API server at {configuration.host} does not answer: {problem}") from problem


def exit_code(verdict: str) -> int:
    """Of a command, from the Status at its end. Raises when it never ran, or nobody knows."""
    status = _body(verdict.encode())
    if not isinstance(status, Mapping):
        raise errors.Unreachable("the connection into the pod was cut before the command had ended")
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode" and str(cause.get("message")).isdecimal():
            return int(cause["message"])
    raise errors.Refused(
        f"the command could not be started in the pod: {status.get('message')}", status=int(status.get("code") or 500)
    )


def _body(data: bytes | None) -> Any:
    try:
        return json.loads(data or b"")
    except ValueError:
        return (data or b"").decode(errors="replace")
