from __future__ import annotations

from typing import Any

from disttrain_contract import labels
from disttrain_operator.manifests import service
from disttrain_operator.shell.kinds import CLAIMS, SERVICES, Kind, Raw
from disttrain_operator.shell.lookups import Lookups
from support.fake_kube import FakeKube
from support.raw_objects import a_seen_job
from support.worlds import NOW, later

KEY = ("team", "mnist")
JOB = a_seen_job(checkpoint={"volume": {"size": "1Gi"}})


class Counting(FakeKube):
    """Counts what is asked."""

    asked: int = 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw:
        self.asked += 1
        return await super().get(kind, namespace, name)


def a_claim(**meta: Any) -> Raw:
    found = {"name": "mnist-checkpoints", "namespace": "team"} | meta
    return {"kind": "PersistentVolumeClaim", "metadata": found, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}


def settled() -> Counting:
    kube = Counting()
    kube.put(SERVICES, service.service(JOB))
    kube.put(CLAIMS, a_claim(labels={labels.JOB: "mnist"}))
    return kube


async def test_what_is_settled_is_asked_for_once_in_five_minutes() -> None:
    kube = settled()
    lookups = Lookups(kube)
    for second in range(0, 299, 10):
        found = await lookups.children(JOB, later(second))
        assert found.service_exists and found.claim is not None and found.notes == ()
    assert kube.asked == 2
    await lookups.children(JOB, later(301))
    assert kube.asked == 4


async def test_what_is_missing_is_looked_for_every_five_seconds() -> None:
    kube = Counting()
    lookups = Lookups(kube)
    missing = await lookups.children(JOB, NOW)
    assert not missing.service_exists and missing.claim is None
    assert lookups.recheck(KEY) == later(5)
    kube.put(CLAIMS, a_claim(labels={labels.JOB: "mnist"}))
    assert (await lookups.children(JOB, later(4))).claim is None
    assert (await lookups.children(JOB, later(5))).claim is not None


async def test_a_successor_of_the_same_name_is_looked_up_for_itself() -> None:
    kube = settled()
    lookups = Lookups(kube)
    await lookups.children(JOB, NOW)
    found = await lookups.children(a_seen_job(uid="new"), later(1))
    assert kube.asked == 3, "the Service again; this one wants no claim"
    assert len(found.notes) == 1 and "Service mnist" in found.notes[0]


async def test_a_claim_made_for_somebody_else_is_used_and_said() -> None:
    kube = settled()
    kube.objects[CLAIMS.plural, "team", "mnist-checkpoints"]["metadata"]["labels"] = {}
    found = await Lookups(kube).children(JOB, NOW)
    assert found.claim is not None and "was not made for this job" in found.notes[0]


async def test_a_claim_that_the_user_named_needs_no_label() -> None:
    kube = settled()
    kube.put(CLAIMS, a_claim(name="data"))
    given = a_seen_job(checkpoint={"volume": {"claimName": "data"}})
    found = await Lookups(kube).children(given, NOW)
    assert found.claim is not None and found.claim.name == "data" and found.notes == ()


async def test_nothing_stays_of_what_is_forgotten() -> None:
    lookups = Lookups(settled())
    await lookups.children(JOB, NOW)
    lookups.forget(KEY)
    assert lookups.recheck(KEY) is None


async def test_our_own_service_need_not_be_looked_for() -> None:
    kube, plain = Counting(), a_seen_job()
    lookups = Lookups(kube)
    await lookups.children(plain, NOW)
    lookups.service_made(plain)
    assert (await lookups.children(plain, later(100))).service_exists
    assert kube.asked == 1


async def test_a_claim_that_was_made_is_looked_at_soon() -> None:
    kube = settled()
    lookups = Lookups(kube)
    await lookups.children(JOB, NOW)
    kube.objects[CLAIMS.plural, "team", "mnist-checkpoints"]["status"]["phase"] = "Lost"
    lookups.changed(JOB)
    found = await lookups.children(JOB, later(1))
    assert found.claim is not None and found.claim.phase == "Lost"
