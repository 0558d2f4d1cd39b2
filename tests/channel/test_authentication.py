"""Reviews of tokens are remembered, bounded, and queued."""

from __future__ import annotations

import asyncio

import pytest

from disttrain_operator.channel import authentication as a
from disttrain_operator.channel.authentication import CachedAuthenticator, PodIdentity


class Reviewer:
    """Knows every token that does not start with `bad`; a clock that is set by hand."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = 0.0
        self.at_once = self.most_at_once = 0
        self.go = asyncio.Event()
        self.go.set()
        self.cached = CachedAuthenticator(self.ask, lambda: self.now)

    async def ask(self, token: str) -> PodIdentity | None:
        self.asked.append(token)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.go.wait()
        self.at_once -= 1
        return None if token.startswith("bad") else PodIdentity("ns", token, token)


async def test_a_yes_holds_for_a_minute() -> None:
    reviewer = Reviewer()
    for now in (0.0, 1.0, a.CACHE_SECONDS - 1):
        reviewer.now = now
        assert await reviewer.cached("t") == PodIdentity("ns", "t", "t")
    assert reviewer.asked == ["t"]
    reviewer.now = a.CACHE_SECONDS
    await reviewer.cached("t")
    assert reviewer.asked == ["t", "t"]


async def test_a_no_is_not_remembered() -> None:
    reviewer = Reviewer()
    assert await reviewer.cached("bad") is None and await reviewer.cached("bad") is None
    assert len(reviewer.asked) == 2


async def test_the_memory_is_bounded_and_holds_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a, "CACHE_SIZE", 2)
    reviewer = Reviewer()
    for token in ("one", "two", "three", "two", "one"):
        await reviewer.cached(token)
    assert reviewer.asked == ["one", "two", "three", "one"]
    assert len(reviewer.cached._known) == 2 and b"two" not in reviewer.cached._known


async def test_a_storm_becomes_a_queue() -> None:
    reviewer = Reviewer()
    reviewer.go.clear()
    storm = [asyncio.create_task(reviewer.cached(str(n))) for n in range(100)]
    while reviewer.at_once < a.CONCURRENT_REVIEWS:
        await asyncio.sleep(0)
    reviewer.go.set()
    await asyncio.gather(*storm)
    assert reviewer.most_at_once == a.CONCURRENT_REVIEWS and len(reviewer.asked) == 100


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a, "REVIEW_SECONDS", 0.01)
    reviewer = Reviewer()
    reviewer.go.clear()
    with pytest.raises(TimeoutError):
        await reviewer.cached("t")
