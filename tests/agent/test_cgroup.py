"""The kernel's count of out-of-memory kills, wherever a container sees it."""

from __future__ import annotations

from pathlib import Path

from disttrain_runtime.agent.cgroup import memory_group

V1_EVENTS = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
V2_EVENTS = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 3\noom_group_kill 0\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def membership(tmp_path: Path, text: str) -> Path:
    write(tmp_path / "cgroup", text)
    return tmp_path / "cgroup"


def test_version_2_with_a_namespace_the_group_is_the_root(tmp_path: Path) -> None:
    write(tmp_path / "fs/memory.events", V2_EVENTS)
    write(tmp_path / "fs/memory.max", "1073741824\n")
    group = memory_group(tmp_path / "fs", membership(tmp_path, "0::/\n"))
    assert (group.oom_kills(), group.limit_bytes()) == (3, 2**30)


def test_version_2_without_a_namespace(tmp_path: Path) -> None:
    write(tmp_path / "fs/kubepods/pod1/memory.events", V2_EVENTS)
    write(tmp_path / "fs/kubepods/pod1/memory.max", "max\n")
    group = memory_group(tmp_path / "fs", membership(tmp_path, "0::/kubepods/pod1\n"))
    assert (group.oom_kills(), group.limit_bytes()) == (3, None)


def test_version_1_the_containers_group_is_mounted_as_the_root(tmp_path: Path) -> None:
    write(tmp_path / "fs/memory/memory.oom_control", V1_EVENTS)
    write(tmp_path / "fs/memory/memory.limit_in_bytes", "536870912\n")
    cgroups = "9:cpu,cpuacct:/kubepods/pod1\n5:memory:/kubepods/pod1\n0::/\n"
    group = memory_group(tmp_path / "fs", membership(tmp_path, cgroups))
    assert (group.oom_kills(), group.limit_bytes()) == (2, 512 * 2**20)


def test_version_1_on_the_host_without_a_limit(tmp_path: Path) -> None:
    write(tmp_path / "fs/memory/kubepods/pod1/memory.oom_control", V1_EVENTS)
    write(tmp_path / "fs/memory/kubepods/pod1/memory.limit_in_bytes", "9223372036854771712\n")
    group = memory_group(tmp_path / "fs", membership(tmp_path, "5:memory:/kubepods/pod1\n"))
    assert (group.oom_kills(), group.limit_bytes()) == (2, None)


def test_a_kernel_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    group = memory_group(tmp_path / "nowhere", tmp_path / "nothing")
    assert (group.oom_kills(), group.limit_bytes()) == (0, None)
    write(tmp_path / "fs/memory/memory.oom_control", "oom_kill_disable 0\n")  # a kernel before 4.13
    assert memory_group(tmp_path / "fs", tmp_path / "nothing").oom_kills() == 0
