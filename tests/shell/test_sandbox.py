"""The sandbox of one pod cannot be made: its network plugin fails. The kubelet tries on, and the pod's status says no reason."""

from __future__ import annotations

from disttrain_operator.core.conditions import Type, find, is_true
from disttrain_operator.shell.kinds import PODS, Raw
from support.operator_world import World
from support.raw_objects import waiting


class NoSandbox(World):
    """The pod of worker 1 stays where such pods stay, as long as `broken`."""

    broken = True

    def _kubelet(self, name: str, pod: Raw) -> None:
        if name != "mnist-1" or not self.broken or "deletionTimestamp" in pod["metadata"]:
            super()._kubelet(name, pod)
        elif "containerStatuses" not in pod["status"]:
            stuck = {
                "conditions": [
                    {"type": "PodScheduled", "status": "True"}, {"type": "PodReadyToStartContainers", "status": "False"},
                ],
                "containerStatuses": [{"name": "trainer", "ready": False, "state": waiting("ContainerCreating")}],
            }  # fmt: skip
            self.kube.change(PODS, "team", name, lambda found: found["status"].update(stuck))


async def test_nobody_trains_without_it_and_all_begins_when_the_plugin_is_well_again() -> None:
    world = NoSandbox()
    for _ in range(30):
        await world.round()
    ready = find(world.status.conditions, Type.WORKERS_READY)
    assert ready is not None and (ready.status, ready.message) == ("False", "2 of 3 workers are connected")
    assert world.training.step == 0
    world.broken = False
    await world.until(lambda w: w.finished)
    assert is_true(world.status.conditions, Type.SUCCEEDED) and world.status.incarnation == 1


async def test_a_startup_deadline_ends_the_wait() -> None:
    world = NoSandbox(startupDeadlineSeconds=60)
    await world.until(lambda w: w.finished, rounds=70)
    failed = find(world.status.conditions, Type.FAILED)
    assert failed is not None and failed.reason == "StartupDeadlineExceeded"
    assert "2 of 3 workers are connected" in failed.message
