"""Whose token is it? Asks somebody who knows (a TokenReview), and remembers a yes for a while."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

CACHE_SECONDS = 60.0
"""A pod that reconnects, as all do when the operator restarts, costs no second review. A token that was revoked
meanwhile belongs to a pod that is gone, and nothing is decided by what a pod says that does not exist."""
CACHE_SIZE = 10_000
CONCURRENT_REVIEWS = 16
"""When thousands of agents come back at once, the API server sees a queue and not a storm."""
REVIEW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Who is speaking: from the token, never from the message."""

    namespace: str
    name: str
    uid: str


Authenticate = Callable[[str], Awaitable[PodIdentity | None]]
"""The pod that a token was issued to; None if it is not valid for us. Raises when it cannot be found out now."""


class CachedAuthenticator:
    """Only answers of "yes" are kept, and tokens only as their hash."""

    def __init__(self, ask: Authenticate, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[PodIdentity, float]] = OrderedDict()
        self._turn = asyncio.Semaphore(CONCURRENT_REVIEWS)

    async def __call__(self, token: str) -> PodIdentity | None:
        """As `Authenticate`; TimeoutError when nobody answers."""
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = self._known.get(key)
        if found is not None and self._clock() < found[1]:
            return found[0]
        async with asyncio.timeout(REVIEW_SECONDS), self._turn:
            identity = await self._ask(token)
        self._known.pop(key, None)
        if identity is not None:
            self._known[key] = (identity, self._clock() + CACHE_SECONDS)
            if len(self._known) > CACHE_SIZE:
                self._known.popitem(last=False)
        return identity
