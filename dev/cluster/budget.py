"""Is there room on the disk for what is still to be made? Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dev.cluster.versions import Tool

# Measured once with everything built (see docs/local-cluster.md), rounded up.
IMAGES_MEGABYTES = 8_000  # base, PyTorch with its CUDA libraries, both images; the nodes' copies are hard links
BUILD_PEAK_MEGABYTES = 6_000  # while a layer is committed, its container and its copy lie side by side
STATE_MEGABYTES = 1_000  # etcd, logs, small volumes
KEPT_FREE_MEGABYTES = 1_000


def needed_megabytes(missing_tools: Iterable[Tool], *, images_built: bool) -> int:
    """What the coming commands will write at most."""
    images = 0 if images_built else IMAGES_MEGABYTES + BUILD_PEAK_MEGABYTES
    return sum(tool.megabytes for tool in missing_tools) + images + STATE_MEGABYTES


def shortage(free_megabytes: int, needed: int, where: str) -> str | None:
    """What to tell the person, if it is too little."""
    if free_megabytes >= needed + KEPT_FREE_MEGABYTES:
        return None
    return (
        f"not enough disk: {needed / 1000:.1f} GB are still to be written below {where}, and only "
        f"{free_megabytes / 1000:.1f} GB are free. Free some, or set DISTTRAIN_CACHE to a folder on a larger disk."
    )
