from __future__ import annotations

from disttrain_operator.shell.cache import TOMBSTONES, Cache, is_older
from support.raw_objects import a_raw_job, a_raw_pod, ended

KEY = ("team", "mnist")


def test_a_late_watch_event_does_not_undo_our_own_write() -> None:
    cache = Cache()
    cache.job_seen(a_raw_job(version="9"))
    cache.job_seen(a_raw_job(version="10", status={"incarnation": 2}))  # the answer to our write
    cache.job_seen(a_raw_job(version="9", status={"incarnation": 1}))  # the watch, a moment behind
    seen = cache.job(KEY)
    assert seen is not None and (seen.version, seen.job.status.incarnation) == ("10", 2)


def test_versions_that_are_no_numbers_have_no_order_so_the_last_sight_wins() -> None:
    assert not is_older("a", "b") and not is_older("b", "a") and not is_older("", "9")
    assert is_older("9", "10"), "as numbers, not as text"


def test_a_pod_that_is_gone_does_not_come_back_by_the_late_answer_to_our_write() -> None:
    cache = Cache()
    cache.pod_seen(a_raw_pod(uid="a", version="5"))
    assert cache.pod_gone("a") == KEY
    cache.pod_seen(a_raw_pod(uid="a", version="6", deleting=True))
    assert cache.pods(KEY, "job-uid") == ()


def test_a_job_that_is_gone_does_not_come_back_by_the_late_answer_to_our_write() -> None:
    cache = Cache()
    cache.job_seen(a_raw_job(uid="a"))
    cache.job_gone("a")
    cache.job_seen(a_raw_job(uid="a"))
    assert cache.job(KEY) is None


def test_the_end_of_a_job_does_not_take_its_successor_of_the_same_name() -> None:
    cache = Cache()
    cache.job_seen(a_raw_job(uid="old", version="1"))
    cache.job_seen(a_raw_job(uid="new", version="5"))
    cache.job_gone("old")
    seen = cache.job(KEY)
    assert seen is not None and seen.job.uid == "new"


def test_the_end_of_a_pod_does_not_take_its_successor_of_the_same_name() -> None:
    cache = Cache()
    cache.pod_seen(a_raw_pod(uid="old", version="1"))
    cache.pod_seen(a_raw_pod(uid="new", version="5"))
    cache.pod_gone("old")
    assert [p.uid for p in cache.pods(KEY, "job-uid")] == ["new"]
    assert cache.key_of_pod("new") == KEY and cache.key_of_pod("old") is None


def test_a_pod_of_an_older_job_of_that_name_is_foreign() -> None:
    cache = Cache()
    cache.pod_seen(a_raw_pod(0, owner="job-uid"))
    cache.pod_seen(a_raw_pod(1, owner="older-uid"))
    cache.pod_seen(a_raw_pod(2, owner=None))
    assert [p.foreign for p in cache.pods(KEY, "job-uid")] == [False, True, True]


def test_a_pod_without_a_jobs_label_is_nobodys() -> None:
    found = a_raw_pod()
    found["metadata"]["labels"] = {}
    assert Cache().pod_seen(found) is None


def test_a_pod_may_be_seen_before_its_job() -> None:
    cache = Cache()
    cache.pod_seen(a_raw_pod(container=ended(1)))
    cache.job_seen(a_raw_job())
    assert cache.pods(KEY, "job-uid")[0].exit is not None


def test_graves_are_not_kept_for_ever() -> None:
    cache = Cache()
    for number in range(TOMBSTONES + 10):
        cache.pod_gone(f"uid-{number}")
    assert len(cache._gone) == TOMBSTONES


def test_nothing_is_left_of_jobs_and_pods_that_are_gone() -> None:
    cache = Cache()
    cache.job_seen(a_raw_job())
    for index in range(3):
        cache.pod_seen(a_raw_pod(index))
    for index in range(3):
        cache.pod_gone(f"uid-{index}")
    cache.job_gone("job-uid")
    assert not cache._jobs and not cache._pods and not cache._key_of_pod and not cache._key_of_job


def blaming(node: str) -> dict[str, object]:
    return {"recovery": {"nodeFailures": [{"node": node, "class": "Node", "at": "2030-01-01T00:00:00Z"}]}}


def test_what_jobs_hold_against_nodes_is_known_until_they_are_gone() -> None:
    cache = Cache()
    cache.job_seen(a_raw_job("a", uid="a", status=blaming("n1")))
    cache.job_seen(a_raw_job("b", uid="b", status=blaming("n2")))
    cache.job_seen(a_raw_job("c", uid="c"))
    nodes = [[f.node for f in found] for found in cache.node_failures()]
    assert nodes == [["n1"], ["n2"]]
    assert [f.node for (f,) in cache.node_failures(but="a")] == ["n2"]
    cache.job_seen(a_raw_job("b", uid="b", status={}))
    cache.job_gone("a")
    assert cache.node_failures() == ()


def test_a_job_made_again_holds_nothing_against_anybody() -> None:
    cache = Cache()
    cache.job_seen(a_raw_job(uid="old", status=blaming("n1"), version="1"))
    cache.job_seen(a_raw_job(uid="new", version="5"))
    assert cache.node_failures() == ()
