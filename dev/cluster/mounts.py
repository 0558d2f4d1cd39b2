"""The mounts below our state folder, and the nodes' mount namespaces."""

from __future__ import annotations

from pathlib import Path

from dev.cluster.command import Trouble, run

# What a kubelet or a container runtime keeps at a fixed place: each node gets its own, the host's stay untouched.
PRIVATE = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/run/containerd", "/run/netns")


def mount_points(mountinfo: str, below: Path) -> list[Path]:
    """The mount points at or below a folder, deepest first. Pure: reads the text of /proc/self/mountinfo."""
    found = []
    for text in mountinfo.splitlines():
        # Spaces and the like are written in octal.
        point = Path(text.split()[4].encode().decode("unicode_escape"))
        if point == below or below in point.parents:
            found.append(point)
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def current(below: Path) -> list[Path]:
    """The same for this machine, now."""
    return mount_points(Path("/proc/self/mountinfo").read_text(), below)


def ensure_bind(folder: Path, propagation: str) -> None:
    """Make the folder a mount point of its own with the given propagation."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in current(folder):
        run(["mount", "--bind", str(folder), str(folder)])
        run(["mount", f"--make-{propagation}", str(folder)])


def ensure_namespace(file: Path, private_root: Path) -> None:
    """Make a mount namespace that is kept alive by `file`, with private folders at the fixed places.

    Mounts made later on the host appear in it (slave), its own never appear on the host.
    """
    if file in current(file.parent):
        return
    binds = []
    for number, target in enumerate(PRIVATE):
        source = private_root / str(number)
        source.mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        binds.append(f"mount --bind {source} {target}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    run(["unshare", f"--mount={file}", "--propagation", "slave", "sh", "-ec", "\n".join(binds)])


def unmount_all(below: Path) -> None:
    """Unmount everything at or below the folder; twice, because one place may be mounted over."""
    for _ in range(2):
        for point in current(below):
            run(["umount", str(point)], check=False)
    if left := current(below):
        for point in left:
            # Somebody still looks at it; it goes when they do.
            run(["umount", "--lazy", str(point)], check=False)
    if left := current(below):
        raise Trouble(
            f"cannot unmount {', '.join(map(str, left))}: end what uses it (`fuser -vm PATH`), then try again"
        )


def forget_private_folders() -> None:
    """Remove the empty folders that served as mount points, where nobody else put anything in."""
    for target in PRIVATE:
        path = Path(target)
        if path.is_dir() and target != "/run/netns" and not any(path.iterdir()):
            path.rmdir()
