"""A watch that is cut, expired or late still tells the truth."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest
from tests.sdk.conftest import event, job, pod
from tests.sdk.fake_api import JOBS, FakeApi, until
from tests.sdk.refusals import status_body

from disttrain.sdk import Client, JobGone, JobSeen, Unreachable, watching
from disttrain.sdk.connection import connect
from disttrain.sdk.updates import Happened
from disttrain.sdk.watching import Change, Sight, Watch

JOBS_PATH = "/apis/disttrain.dev/v1alpha1/namespaces/ml/disttrainjobs"


@pytest.fixture
def watch(api: FakeApi, config: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr(watching, "RETRY_SECONDS", (0.05,))
    transport, _ = connect(str(config))
    found = Watch(transport, JOBS_PATH)
    yield found
    found.close()


def collect(watch: Watch) -> list[tuple[Change, str, int]]:
    """Reads on in a thread; (change, name, workers)."""
    seen: list[tuple[Change, str, int]] = []

    def run() -> None:
        for sight in watch:
            seen.append((sight.change, sight.raw["metadata"]["name"], sight.raw["spec"]["workers"]))

    threading.Thread(target=run, daemon=True).start()
    return seen


def watches(api: FakeApi) -> int:
    return sum(1 for method, _, query in api.requests if query.get("watch"))


def test_it_tells_what_is_and_then_what_changes(api: FakeApi, watch: Watch) -> None:
    api.put(JOBS, job("a"))
    seen = collect(watch)
    until(lambda: watches(api))
    api.put(JOBS, job("a", workers=4))
    api.remove(JOBS, "a")
    until(lambda: len(seen) == 3)
    assert seen == [(Change.SEEN, "a", 3), (Change.SEEN, "a", 4), (Change.GONE, "a", 4)]


def test_what_changed_while_the_connection_was_down_is_told_once(api: FakeApi, watch: Watch) -> None:
    api.put(JOBS, job("kept"))
    api.put(JOBS, job("changed"))
    api.put(JOBS, job("deleted"))
    seen = collect(watch)
    until(lambda: watches(api) == 1)
    with api.changed:
        api.cut()
        api.put(JOBS, job("changed", workers=9))
        api.remove(JOBS, "deleted")
    until(lambda: watches(api) == 2)
    until(lambda: len(seen) == 5)
    assert sorted(seen[3:]) == [(Change.GONE, "deleted", 3), (Change.SEEN, "changed", 9)]


def test_an_expired_watch_starts_over(api: FakeApi, watch: Watch) -> None:
    api.put(JOBS, job("a"))
    seen = collect(watch)
    until(lambda: watches(api) == 1)
    api.forget_history()
    until(lambda: watches(api) >= 2)
    api.put(JOBS, job("b"))
    until(lambda: (Change.SEEN, "b", 3) in seen)
    assert seen.count((Change.SEEN, "a", 3)) == 1


def test_an_api_server_that_stays_away_ends_it(api: FakeApi, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.2)
    api.stop()
    with pytest.raises(Unreachable):
        list(watch)


def test_closing_wakes_a_reader_that_waits(api: FakeApi, watch: Watch) -> None:
    ended = threading.Event()

    def run() -> None:
        list(watch)
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    until(lambda: watches(api))
    watch.close()
    assert ended.wait(5)


def test_a_follower_hears_the_job_its_events_and_its_pods_warnings(api: FakeApi, client: Client) -> None:
    client.submit(job())
    mine = api.objects[JOBS, "ml", "mnist"]
    api.put(
        "events",
        event(pod("mnist", 0), "Failed", "from an earlier job of the name", kind="Warning", at="2029-01-01T00:00:00Z"),
    )
    api.put("events", event(pod("mnist-two", 0), "Failed", "of another job", kind="Warning"))
    api.put("events", event(pod("mnist", 0), "Pulled", "not a warning"))
    with closing(client.watch("mnist")) as stream:
        heard: list[object] = [next(stream)]
        api.put("events", event(mine, "Accepted", "accepted: 3 workers"))
        api.put("events", event(pod("mnist", 1), "BackOff", "cannot pull", kind="Warning"))
        while sum(isinstance(u, Happened) for u in heard) < 2:
            heard.append(next(stream))
        api.remove(JOBS, "mnist")
        heard += list(stream)
    events = [u.event.message for u in heard if isinstance(u, Happened)]
    assert sorted(events) == ["accepted: 3 workers", "cannot pull"]
    events = [u.event.message for u in heard if isinstance(u, Happened)]
    assert sorted(events) == ["accepted: 3 workers", "cannot pull"] or set(events) <= {
        "accepted: 3 workers",
        "cannot pull",
    }
    assert isinstance(heard[0], JobSeen) and isinstance(heard[-1], JobGone)


def test_somebody_who_may_not_see_events_still_sees_the_job(api: FakeApi, client: Client) -> None:
    client.submit(job())
    for _ in range(2):
        api.fail("GET", "/events", 403, status_body(403, "Forbidden", "no", kind="events"))
    with closing(client.watch("mnist", tick=0.05)) as stream:
        threading.Timer(0.3, lambda: api.status("mnist", state="Running")).start()
        states = (u.job.state for u in stream if isinstance(u, JobSeen))
        assert next(s for s in states if s == "Running")


def test_sights_of_many_jobs_come_from_one_watch(api: FakeApi, client: Client) -> None:
    for name in ("a", "b"):
        client.submit(job(name))
    with closing(client.watch_all()) as stream:  # type: ignore[type-var]
        first: list[Sight] = list(islice(stream, 2))
    assert {s.raw["metadata"]["name"] for s in first} == {"a", "b"}
