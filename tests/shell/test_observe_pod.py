from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttrain_contract import labels
from disttrain_contract.messages import AgentState, encode_within
from disttrain_operator.core.model import Pod
from disttrain_operator.shell.observe_pod import pod
from support.raw_objects import a_raw_pod, ended, waiting
from support.worlds import a_report, failed


def test_a_running_pod() -> None:
    seen = pod(a_raw_pod(2))
    assert (seen.name, seen.index, seen.incarnation, seen.ip, seen.node) == ("mnist-2", 2, 1, "198.18.0.3", "node-1")
    assert not seen.foreign and not seen.deleting and not seen.dead
    assert (seen.exit, seen.lost, seen.waiting) == (None, None, None)


def test_a_dead_container_speaks_its_last_words() -> None:
    report = a_report(3, AgentState.FAILED, failure=failed("ValueError: bad"))
    seen = pod(a_raw_pod(phase="Failed", container=ended(1, message=encode_within(report, 4096))))
    assert seen.exit is not None and seen.exit.report == report and seen.exit.message == ""


def test_words_that_are_no_report_are_kept_as_text() -> None:
    seen = pod(a_raw_pod(phase="Failed", container=ended(1, message='{"cut": "off')))
    assert seen.exit is not None and seen.exit.report is None and seen.exit.message == '{"cut": "off'


def test_an_oom_kill_is_said_as_such() -> None:
    seen = pod(a_raw_pod(phase="Failed", container=ended(137, "OOMKilled")))
    assert seen.exit is not None and (seen.exit.exit_code, seen.exit.reason) == (137, "OOMKilled")
    assert seen.lost is None and seen.dead


def test_an_ended_container_counts_before_the_phase_says_so() -> None:
    seen = pod(a_raw_pod(phase="Running", container=ended(0, "Completed")))
    assert seen.exit is not None and seen.exit.exit_code == 0 and not seen.dead


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"phase": "Failed", "reason": "Evicted", "message": "disk pressure"}, id="evicted"),
        pytest.param({"phase": "Failed", "reason": "Preempting"}, id="preempted by the kubelet"),
        pytest.param({"phase": "Failed", "reason": "NodeShutdown"}, id="its node is shut down"),
        pytest.param({"phase": "Unknown"}, id="its node does not answer"),
        pytest.param({"phase": "Running", "reason": "NodeLost"}, id="its node is lost"),
        pytest.param({"phase": "Failed", "reason": "OutOfcpu", "message": "no room"}, id="refused by its node"),
        pytest.param(
            {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
            id="preempted by the scheduler",
        ),
    ],
)  # fmt: skip
def test_a_pod_that_the_cluster_took_down_is_lost(status: dict[str, Any]) -> None:
    seen = pod(a_raw_pod(**status))
    assert seen.lost is not None and seen.dead
    assert seen.unreachable == ("does not answer" in seen.lost), "only this speaks against the node"
    assert (status.get("message") or "mnist-0") in seen.lost


def test_a_pod_whose_kubelet_has_stopped_is_not_lost() -> None:
    """Its node's controller takes its readiness away after 40 s, and nothing else: its ranks train, and its agent says so."""
    unready = {"type": "Ready", "status": "False", "reason": "NodeNotReady"}
    assert pod(a_raw_pod(phase="Running", conditions=[unready])) == pod(a_raw_pod(phase="Running"))


def test_a_pod_that_is_being_preempted_still_has_time_to_save() -> None:
    going = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    seen = pod(a_raw_pod(phase="Running", deleting=True, conditions=[going]))
    assert seen.deleting and seen.lost is None and seen.exit is None


def test_an_evicted_pod_is_lost_though_its_container_has_an_exit_code() -> None:
    seen = pod(a_raw_pod(phase="Failed", reason="Evicted", container=ended(137)))
    assert seen.lost is not None and seen.exit is not None


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"]
)
def test_a_container_that_cannot_start_says_why(reason: str) -> None:
    assert pod(a_raw_pod(phase="Pending", container=waiting(reason, "because"))).waiting == (reason, "because")


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_container_that_is_being_made_waits_for_nothing(reason: str) -> None:
    assert pod(a_raw_pod(phase="Pending", container=waiting(reason))).waiting is None


def test_a_pod_that_fits_nowhere_says_why() -> None:
    message = '0/1 nodes are available: persistentvolumeclaim "data" not found.'
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    assert pod(a_raw_pod(phase="Pending", conditions=[condition])).waiting == ("Unschedulable", message)


@pytest.mark.parametrize("index", ["x", "", "-1", "1" * 12, None, "²"])
def test_a_pod_without_a_worker_index_is_not_ours(index: Any) -> None:
    found = a_raw_pod()
    found["metadata"]["labels"][labels.WORKER_INDEX] = index
    assert pod(found).foreign


def test_a_pod_whose_name_is_not_its_workers_is_not_ours() -> None:
    found = a_raw_pod(1)
    found["metadata"]["name"] = "somebody"
    assert pod(found).foreign


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["state", "terminated", "waiting", "name", "exitCode", "message", "reason", "type", "status"]), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip
PARTS = st.sampled_from(["phase", "reason", "conditions", "containerStatuses", "podIP", "message"])


@given(st.dictionaries(PARTS, JUNK, max_size=5), JUNK)
def test_whatever_the_server_sends_becomes_a_pod(status: dict[str, Any], meta: Any) -> None:
    assert isinstance(pod(a_raw_pod() | {"status": status}), Pod)
    assert isinstance(pod({"metadata": meta, "spec": meta, "status": status}), Pod)
