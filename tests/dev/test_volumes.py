import pytest
from dev.cluster.render import PROVISIONER, SHARED_CLASS, SIZED_CLASS
from dev.cluster.volumes import Create, Remove, bytes_of, plan

ROOT = "/volumes"


def claim(name="data", uid="0123456789abcdef", **spec):
    return {
        "metadata": {"name": name, "namespace": "team", "uid": uid},
        "spec": {
            "storageClassName": SHARED_CLASS,
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "64Mi"}},
            **spec,
        },
    }


def volume(name="pvc-0123456789abcdef", phase="Bound", policy="Delete", provisioner=PROVISIONER):
    return {
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": provisioner}},
        "spec": {"hostPath": {"path": f"{ROOT}/x"}, "persistentVolumeReclaimPolicy": policy},
        "status": {"phase": phase},
    }


def test_a_claim_gets_a_volume_bound_to_it():
    (action,) = plan([claim()], [], ROOT)
    assert isinstance(action, Create)
    spec = action.object["spec"]
    assert action.size == 64 * 2**20
    assert spec["claimRef"]["uid"] == "0123456789abcdef"
    assert spec["accessModes"] == ["ReadWriteMany"]
    assert spec["hostPath"]["path"] == action.folder == f"{ROOT}/team_data_01234567"


def test_a_claim_that_has_its_volume_needs_nothing_more():
    assert plan([claim()], [volume()], ROOT) == []
    assert plan([claim(volumeName="pvc-1")], [], ROOT) == []


def test_two_lives_of_one_claim_never_share_a_folder():
    (first,) = plan([claim(uid="a" * 16)], [], ROOT)
    (second,) = plan([claim(uid="b" * 16)], [], ROOT)
    assert first.folder != second.folder


@pytest.mark.parametrize(
    "other",
    [claim(storageClassName="fast"), claim(storageClassName=None), claim(volumeMode="Block")],
    ids=["another class", "no class", "a raw device"],
)
def test_what_is_not_ours_is_left_alone(other):
    assert plan([other], [], ROOT) == []


def test_the_data_goes_when_its_claim_is_gone():
    assert plan([], [volume(phase="Released")], ROOT) == [Remove("pvc-0123456789abcdef", f"{ROOT}/x")]


def test_retained_and_foreign_volumes_are_kept():
    assert plan([], [volume(phase="Released", policy="Retain")], ROOT) == []
    assert plan([], [volume(phase="Released", provisioner="somebody.else")], ROOT) == []
    assert plan([], [volume(phase="Bound")], ROOT) == []


def test_a_claim_being_deleted_gets_no_volume():
    dying = claim(storageClassName=SIZED_CLASS)
    dying["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert plan([dying], [], ROOT) == []


@pytest.mark.parametrize(
    ("quantity", "size"), [("64Mi", 64 * 2**20), ("2G", 2 * 10**9), ("1.5Gi", 3 * 2**29), ("1000", 1000)]
)
def test_sizes_are_read_as_kubernetes_means_them(quantity, size):
    assert bytes_of(quantity) == size


def test_a_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="64Mi"):
        bytes_of("much")
