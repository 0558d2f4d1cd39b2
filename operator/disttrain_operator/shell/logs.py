"""One line a message: JSON for machines, text for people. Every line of a pass names its job."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override  # typing's own from Python 3.12 on; pydantic brings it

_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)

NOISY = ("kopf", "aiohttp", "asyncio")
"""Their INFO tells of every connection; their warnings matter."""

REPEATED = ("kopf._core.reactor.orchestration", "kopf._core.reactor.running")
"""What ends a watch ends the process, which says so once; these say it again at every level, with tracebacks."""


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Every record within names these."""
    token = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def add(**fields: Any) -> None:
    """Name more in the rest of the present `about`."""
    if (known := _about.get()) is not None:
        known.update(fields)


def configure(level: str, form: str) -> None:
    """The root logger writes to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level.lower() != "debug":
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.WARNING)
        for name in REPEATED:
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    found = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
    return found | (_about.get() or {})


class JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "message": …, "namespace": …, "job": …, "incarnation": …}`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields = _fields(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`time level [namespace/job] message`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it."""
        fields = _fields(record)
        job = f" [{fields['namespace']}/{fields['job']}]" if "job" in fields else ""
        line = f"{fields['time']} {fields['level']:7}{job} {fields['message']}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
