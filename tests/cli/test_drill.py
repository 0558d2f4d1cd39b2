"""`disttrain drill`, against an API server that a small operator stands behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.sdk.conftest import condition, job, pod
from tests.sdk.fake_api import JOBS, FakeApi
from tests.sdk.fake_exec import Ran
from tests.sdk.refusals import status_body

from disttrain_contract.drill import Announcement, Fault, read_announcement

OPERATOR = {"app.kubernetes.io/component": "operator"}
RUNNING = condition("Running", "True")
COMMITTED = condition("Checkpointed", "True", "Committed")


class World:
    """A job that runs on two workers, and what happens when something is broken."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.count, self.step = 0, 120
        api.put(JOBS, job(workers=2, checkpoint={"volume": {"size": "1Gi"}}))
        for n in (0, 1):
            api.put("pods", pod("mnist", n))
        self.tell(RUNNING, COMMITTED)

    def tell(self, *conditions: dict[str, Any], **last: Any) -> None:
        recovery = {"count": self.count, "last": {"class": "Signal", "failedAt": "2030-01-01T00:00:00Z"} | last}
        more = {"recovery": recovery} if self.count else {}
        kept = {"conditions": list(conditions)} if conditions else {}
        self.api.status("mnist", progress={"step": self.step}, **kept, **more)

    def recovers(self, seconds: float = 0.31, **last: Any) -> None:
        """Noticed after 0.1 s, mended 0.1 s later, and a step more a moment after."""
        last = {"cause": "rank 1 died of SIGKILL", "source": "survivor", "lostSteps": 0} | last

        def notice() -> None:
            self.count += 1
            self.tell(**last)

        def mend() -> None:
            self.step += 1
            self.tell(**last, recoverSeconds=seconds)

        def go_on() -> None:
            self.step += 1
            self.tell(**last, recoverSeconds=seconds)

        for after, act in ((0.1, notice), (0.2, mend), (0.5, go_on)):
            threading.Timer(after, act).start()

    def runs(self, answer: Callable[[str, Sequence[str]], Ran]) -> None:
        self.api.execs.answer = answer


@pytest.fixture
def world(api: FakeApi) -> World:
    return World(api)


def rank_1_is_in_worker_1(world: World) -> Callable[[str, Sequence[str]], Ran]:
    def answer(pod: str, command: Sequence[str]) -> Ran:
        if pod != "mnist-1":
            return Ran(err="rank 1 does not run here; ranks here: 0\n", code=3)
        return Ran(out="rank 1\n", then=world.recovers)

    return answer


def test_a_rank_is_killed_and_the_recovery_is_told(world: World, cli: Cli) -> None:
    world.runs(rank_1_is_in_worker_1(world))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--rank", "1", "--at-step", "100", "--yes")
    assert done.code == 0, done.err
    assert done.err == "kill-rank: rank 1 in mnist-1 at step 120\n"
    head, row = done.out.splitlines()
    assert head.split() == [
        "FAULT",
        "WHERE",
        "STEP",
        "CLASS",
        "DETECTED",
        "RECOVERED",
        "STATE",
        "FROM",
        "LOST",
        "STEPS",
        "CAUSE",
    ]
    assert row.split("   ")[0] == "kill-rank" and "rank 1 in mnist-1" in row and "0.31 s" in row
    assert row.endswith("rank 1 died of SIGKILL") and " survivor " in row and " Signal " in row
    assert world.api.execs.seen == [
        ("mnist-1", ["python", "-m", "disttrain_runtime.drill", "kill-rank", "--rank", "1"])
    ]


def test_a_rank_is_looked_for_where_it_is(world: World, cli: Cli) -> None:
    world.api.put("pods", pod("mnist", 2))  # a standby that took the place of worker 1
    world.api.remove("pods", "mnist-1")
    world.runs(lambda name, _: Ran(out="rank 1\n", then=world.recovers) if name == "mnist-2" else Ran(err="no", code=3))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--rank", "1", "--yes")
    assert done.code == 0 and "rank 1 in mnist-2" in done.out
    assert [name for name, _ in world.api.execs.seen] == ["mnist-0", "mnist-2"]


def test_a_rank_that_is_nowhere_is_said(world: World, cli: Cli) -> None:
    world.runs(lambda *_: Ran(err="rank 7 does not run here; ranks here: 0\n", code=3))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--rank", "7", "--yes")
    assert (done.code, done.out) == (2, "")
    assert "error: rank 7 of job mnist was found in no worker that runs\n  → mnist-" in done.err


def test_repeated_it_waits_for_new_steps_and_ends_with_the_median(world: World, cli: Cli) -> None:
    times = iter([0.2, 0.9, 0.4])
    world.runs(lambda *_: Ran(out="rank 1\n", then=lambda: world.recovers(next(times))))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--repeat", "3", "--yes")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 5
    last = done.out.splitlines()[-1]
    assert last.startswith("median of 3: detected in ") and last.endswith("recovered in 0.40 s, lost steps 0")
    steps = [line.rsplit(" ", 1)[-1] for line in done.err.splitlines() if "at step" in line]
    assert len(set(steps)) == 3, "new steps in between"


def test_a_job_that_does_not_recover_in_time_is_exit_1_and_a_stopped_rank_is_let_go(world: World, cli: Cli) -> None:
    world.runs(lambda *_: Ran(out="rank 1\n"))
    done = cli("drill", "mnist", "--fault", "stop-rank", "--timeout", "1", "--repeat", "5", "--yes")
    assert done.code == 1 and "nobody noticed" in done.out and done.out.splitlines()[1].split()[6:8] == ["-", "-"]
    said = [command[3:] for _, command in world.api.execs.seen]
    assert said == [["stop-rank"], ["continue-rank", "--rank", "1"]], "and it is not tried again"


def test_a_pod_is_killed_at_once_and_only_the_one_that_was_seen(world: World, cli: Cli) -> None:
    deleted: list[tuple[str, Any]] = []

    def on_delete(kind: str, name: str, options: Any) -> None:
        deleted.append((name, options))
        world.recovers(cause="pod mnist-1 was deleted", source="volume", lostSteps=3, **{"class": "PodLost"})

    uid = world.api.objects["pods", "ml", "mnist-1"]["metadata"]["uid"]
    world.api.on_delete = on_delete
    done = cli("drill", "mnist", "--fault", "kill-pod", "--yes")
    assert done.code == 0 and " PodLost " in done.out and " volume " in done.out
    assert deleted == [("mnist-1", {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})]


def test_an_eviction_is_one(world: World, cli: Cli) -> None:
    world.api.on_delete = lambda *_: world.recovers()
    assert cli("drill", "mnist", "--fault", "evict", "--worker", "0", "--yes").code == 0
    posts = [path for method, path, _ in world.api.requests if method == "POST"]
    assert posts == ["/api/v1/namespaces/ml/pods/mnist-0/eviction"]


def test_a_full_disk_is_told_by_its_condition(world: World, cli: Cli) -> None:
    world.api.put(
        "persistentvolumeclaims",
        {"metadata": {"name": "mnist-checkpoints"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}},
         "status": {"capacity": {"storage": "2Gi"}}},
    )  # fmt: skip

    def full() -> None:
        world.step += 1
        world.tell(RUNNING, condition("Checkpointed", "False", "DiskFull", "no space left"))

    def mended() -> None:
        world.step += 1
        world.tell(RUNNING, COMMITTED)

    def answer(name: str, command: Sequence[str]) -> Ran:
        threading.Timer(0.1, full).start()
        threading.Timer(0.4, mended).start()
        return Ran(out="/checkpoints/mnist, 2048 MiB taken\n")

    world.runs(answer)
    done = cli("drill", "mnist", "--fault", "fill-disk", "--seconds", "2", "--yes")
    assert done.code == 0, done.err
    assert "/checkpoints/mnist from mnist-1" in done.out and " DiskFull " in done.out and "no space left" in done.out
    assert world.api.execs.seen[0][1][3:] == ["fill-disk", "--claim-bytes", str(2 << 30), "--seconds", "2.0"]


def test_a_shared_disk_is_not_filled_and_the_pods_own_words_say_why(world: World, cli: Cli) -> None:
    world.api.put(
        "persistentvolumeclaims",
        {"metadata": {"name": "mnist-checkpoints"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}},
    )
    world.runs(lambda *_: Ran(err="it is shared with others\n", code=1))
    done = cli("drill", "mnist", "--fault", "fill-disk", "--yes")
    assert done.code == 2 and "the fault could not be made in pod mnist-1: it is shared with others" in done.err


def test_the_operator_that_leads_is_killed_and_its_successor_named(world: World, cli: Cli) -> None:
    api = world.api
    for name, labels in (("operator-a", OPERATOR), ("operator-b", OPERATOR), ("stranger", {})):
        api.put("pods", {"metadata": {"name": name, "namespace": "system", "labels": labels}})
    api.put("leases", {"metadata": {"name": "another", "namespace": "system"}, "spec": {"holderIdentity": "stranger"}})
    lease = {"metadata": {"name": "disttrain", "namespace": "system"}}
    api.put("leases", lease | {"spec": {"holderIdentity": "operator-a"}})

    def goes_on() -> None:
        world.step += 1
        world.tell()

    def on_delete(kind: str, name: str, options: Any) -> None:
        assert name == "operator-a" and options["gracePeriodSeconds"] == 0
        threading.Timer(0.3, lambda: api.put("leases", lease | {"spec": {"holderIdentity": "operator-b"}})).start()
        threading.Timer(1.5, goes_on).start()

    api.on_delete = on_delete
    done = cli("drill", "mnist", "--fault", "kill-operator", "--operator-namespace", "system", "--yes")
    assert done.code == 0 and "operator-b leads now" in done.out
    nowhere = cli("drill", "mnist", "--fault", "kill-operator", "--yes")
    assert nowhere.code == 2 and "no operator leads in namespace disttrain-system" in nowhere.err


def test_a_missing_right_is_named(world: World, cli: Cli) -> None:
    said = 'pods "mnist-1" is forbidden: User "jane" cannot create resource "pods/exec"'
    world.api.fail("GET", "/exec$", 403, status_body(403, "Forbidden", said))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--yes")
    assert done.code == 2
    assert done.err == (
        f"error: {said}\n"
        "  → a drill acts with your own rights; kill-rank also needs: get and create on pods/exec\n"
    )  # fmt: skip


def test_an_image_that_is_older_than_drills_is_told_apart(world: World, cli: Cli) -> None:
    world.runs(lambda *_: Ran(err="/opt/venv/bin/python: No module named disttrain_runtime.drill\n", code=1))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--yes")
    assert done.code == 2 and "→ the job's image is older than fire drills" in done.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--fault", "kill-rank"], "there is nobody to ask\n  → if it is meant: --yes"),
        (["--fault", "partition", "--yes"], "→ on the local cluster: python -m dev.cluster partition NODE"),
        (["--fault", "kill-pod", "--rank", "1", "--yes"], "kill-pod hits no rank: leave --rank out"),
        (["--fault", "kill-operator", "--worker", "1", "--yes"], "kill-operator hits no worker: leave --worker out"),
        (["--fault", "kill-rank", "--worker", "1", "--rank", "1", "--yes"], "leave --worker out"),
        (["--fault", "kill-pod", "--worker", "5", "--yes"], "no worker 5 of job mnist runs now"),
        (["--fault", "meteor", "--yes"], "Invalid value for '--fault'"),
    ],
)
def test_what_cannot_be_meant_harms_nobody(world: World, cli: Cli, args: list[str], says: str) -> None:
    done = cli("drill", "mnist", *args)
    assert done.code == 2 and says in done.err
    assert not world.api.execs.seen and not [m for m, _, _ in world.api.requests if m != "GET"]


def test_a_finished_job_is_left_alone(world: World, cli: Cli) -> None:
    world.tell(condition("Succeeded", "True"))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--yes")
    assert done.code == 2 and "nothing runs that could be hit" in done.err and not world.api.execs.seen


def announcements(world: World) -> list[Any]:
    """What the job has carried, one after the other."""
    told = (
        raw["metadata"].get("annotations", {}).get("disttrain.dev/drill")
        for _, _, kind, raw in world.api.history
        if kind == JOBS
    )
    return [said for said, _ in groupby(told)]


@pytest.mark.parametrize("fault", ["kill-rank", "kill-pod", "evict"])
def test_the_job_is_told_that_it_is_a_drill_before_it_happens_and_for_as_long_as_it_lasts(
    world: World, cli: Cli, fault: str
) -> None:
    world.api.status("mnist", incarnation=4)
    world.runs(lambda *_: Ran(out="rank 1\n", then=world.recovers))
    world.api.on_delete = lambda *_: world.recovers()
    assert cli("drill", "mnist", "--fault", fault, "--yes").code == 0
    before, during, after = announcements(world)
    assert (before, after) == (None, None)
    assert read_announcement(during) == Announcement(Fault(fault), 4, "mnist-1")
    verbs = [method for method, path, _ in world.api.requests if method != "GET" or path.endswith("/exec")]
    assert verbs[0] == verbs[-1] == "PATCH", "before the fault, and behind it"


def test_a_drill_that_could_not_be_made_is_taken_back(world: World, cli: Cli) -> None:
    world.runs(lambda *_: Ran(err="rank 7 does not run here\n", code=3))
    assert cli("drill", "mnist", "--fault", "kill-rank", "--rank", "7", "--yes").code == 2
    assert announcements(world)[-1] is None and len(announcements(world)) == 4


def test_who_may_not_write_on_the_job_may_drill_it_all_the_same(world: World, cli: Cli) -> None:
    world.runs(rank_1_is_in_worker_1(world))
    for _ in range(2):
        world.api.fail("PATCH", "/disttrainjobs/mnist", 403, status_body(403, "Forbidden", "no", kind="x"))
    done = cli("drill", "mnist", "--fault", "kill-rank", "--rank", "1", "--yes")
    assert done.code == 0 and "status will not say that it was a drill: that needs patch on disttrainjobs" in done.err
