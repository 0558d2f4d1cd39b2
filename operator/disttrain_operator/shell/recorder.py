"""Events for `kubectl describe`. Best effort: an event that cannot be written is logged; the conditions hold the truth."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

from disttrain_operator.core.actions import Event
from disttrain_operator.core.model import Job
from disttrain_operator.manifests import event
from disttrain_operator.shell.errors import AlreadyExists, ClusterError
from disttrain_operator.shell.kinds import EVENTS, Api

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Problems that have been said, over all jobs."""


class Recorder:
    """Says each thing once."""

    def __init__(self, api: Api, reporter: str) -> None:
        self._api = api
        self._reporter = reporter
        self._said: OrderedDict[tuple[str, Event], None] = OrderedDict()

    async def transition(self, job: Job, said: Iterable[Event], version: str, now: datetime) -> None:
        """After a status write; `version` is what it made."""
        for one in without_echoes(said):
            log.log(logging.WARNING if one.warning else logging.INFO, "%s: %s", one.reason, one.message)
            await self._post(job, one, version, now)

    async def problem(self, job: Job, reason: str, message: str, now: datetime) -> None:
        """Something that no condition says. Repeated passes do not repeat it."""
        one = Event(reason, message, warning=True)
        if (job.uid, one) in self._said:
            return
        self._said[job.uid, one] = None
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        log.warning("%s: %s", reason, message)
        await self._post(job, one, f"generation {job.generation}", now)

    async def _post(self, job: Job, one: Event, transition: str, now: datetime) -> None:
        try:
            body = event.event(job, one, transition=transition, reporter=self._reporter, now=now)
            await self._api.create(EVENTS, body)
        except AlreadyExists:
            pass  # said before a crash
        except ClusterError as error:
            log.warning("event not written: %s", error)


def without_echoes(said: Iterable[Event]) -> list[Event]:
    """Two conditions that turn for the same reason are one piece of news, a Warning if either is."""
    found: dict[tuple[str, str], Event] = {}
    for one in said:
        known = found.get((one.reason, one.message))
        found[one.reason, one.message] = one if known is None or one.warning else known
    return list(found.values())
