from pathlib import Path

from dev.cluster.mounts import mount_points

MOUNTINFO = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 254:0 /c /home/ada/.cache/disttrain/cluster rw - ext4 /dev/vda rw
31 30 254:0 /c/v /home/ada/.cache/disttrain/cluster/volumes rw shared:1 - ext4 /dev/vda rw
32 31 7:0 / /home/ada/.cache/disttrain/cluster/volumes/a\040b rw - ext4 /dev/loop0 rw
33 27 0:25 / /home/ada/.cache/disttrain/cluster-of-another rw - tmpfs x rw
""".strip()

CLUSTER = Path("/home/ada/.cache/disttrain/cluster")


def test_mounts_are_undone_from_the_innermost_outwards():
    assert mount_points(MOUNTINFO, CLUSTER) == [CLUSTER / "volumes" / "a b", CLUSTER / "volumes", CLUSTER]


def test_a_folder_whose_name_only_begins_alike_is_not_touched():
    assert CLUSTER.with_name("cluster-of-another") not in mount_points(MOUNTINFO, CLUSTER)
