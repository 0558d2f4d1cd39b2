"""A watch that cannot go blind: list, then watch; cut off or out of date, list again.

Level-based like everything here: a lost connection costs a second list, never a missed change. Whatever vanished while
nobody looked is reported as deleted.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from disttrain.sdk import errors
from disttrain.sdk.transport import Lines, Request, Transport

Raw = dict[str, Any]
SERVER_SECONDS = 300
"""The API server ends a watch after this long; a dead connection is noticed then at the latest."""
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Between attempts while the API server is away; the last one repeats."""
PATIENCE = 60.0
"""An API server that has been away for longer ends the watch with `Unreachable`."""


class Change(StrEnum):
    """What happened to an object."""

    SEEN = "seen"
    """It is there: at the start, or changed."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Sight:
    """One object at one moment."""

    change: Change
    raw: Raw


class Watch:
    """Iterate over it; `close` ends it from any thread."""

    def __init__(
        self, transport: Transport, path: str, query: Mapping[str, str] | None = None, known: Iterable[Raw] = ()
    ) -> None:
        """`known`: seen by the caller already; told again only when they differ, and when they are gone."""
        self._transport = transport
        self._path = path
        self._query = dict(query or {})
        self._stop = threading.Event()
        self._lines: Lines | None = None
        self._known: dict[str, Raw] = {raw["metadata"]["uid"]: raw for raw in known}

    def close(self) -> None:
        """End the iteration."""
        self._stop.set()
        if self._lines is not None:
            self._lines.close()

    def __iter__(self) -> Iterator[Sight]:
        failures, away_since = 0, time.monotonic()
        while not self._stop.is_set():
            try:
                version = yield from self._list()
                failures, away_since = 0, time.monotonic()
                yield from self._follow(version)
            except errors.Unreachable:
                if time.monotonic() - away_since > PATIENCE:
                    raise
                self._stop.wait(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1

    def _list(self) -> Generator[Sight, None, str]:
        body = self._transport.send(Request(method="GET", path=self._path, query=self._query)).body
        found = {item["metadata"]["uid"]: item for item in body.get("items") or ()}
        for uid in [u for u in self._known if u not in found]:
            yield Sight(Change.GONE, self._known.pop(uid))
        for uid, item in found.items():
            if self._version(self._known.get(uid)) != self._version(item):
                self._known[uid] = item
                yield Sight(Change.SEEN, item)
        return str(body["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> Iterator[Sight]:
        """Until the server ends it or says 410; both mean: list again."""
        more = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(SERVER_SECONDS),
        }
        self._lines = self._transport.stream(Request(method="GET", path=self._path, query=self._query | more))
        if self._stop.is_set():  # closed while the request was under way
            self._lines.close()
        try:
            for line in self._lines:
                event = json.loads(line)
                kind, item = event["type"], event["object"]
                if kind == "ERROR":
                    return
                if kind == "BOOKMARK":
                    continue
                yield self._sight(kind, item)
        finally:
            self._lines.close()

    def _sight(self, kind: str, item: Raw) -> Sight:
        if kind == "DELETED":
            self._known.pop(item["metadata"]["uid"], None)
            return Sight(Change.GONE, item)
        self._known[item["metadata"]["uid"]] = item
        return Sight(Change.SEEN, item)

    @staticmethod
    def _version(item: Raw | None) -> str | None:
        return item["metadata"].get("resourceVersion") if item is not None else None
