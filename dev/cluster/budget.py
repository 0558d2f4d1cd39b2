"""Is there room on the disk for what is still to be made? Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dev.cluster.versions import Tool

# Measured once with everything built (see docs/local-cluster.md), rounded up.
IMAGES_MEGABYTES = 8_000  # base, PyTorch with its CUDA libraries, both images; the nodes' copies are hard links
TOOLS_MEGABYTES = 500  # the binaries; modules and build cache are removed behind the last one
BUILD_PEAK_MEGABYTES = 6_000  # while a layer is committed, its container and its copy lie side by side
VENV_MEGABYTES = (
    6_500  # of the checkout, with PyTorch and its CUDA libraries; uv's cache holds the same files by hard links
)
STATE_MEGABYTES = 1_000  # etcd, logs, small volumes
KEPT_FREE_MEGABYTES = 1_000


def needed_megabytes(missing_tools: Iterable[Tool], *, images_built: bool) -> int:
    """What lies on the disk at most while the coming commands run: what the compiler needs is gone before images are built."""
    compiling = sum(tool.megabytes for tool in missing_tools)
    images = 0 if images_built else IMAGES_MEGABYTES + BUILD_PEAK_MEGABYTES
    return max(compiling, min(compiling, TOOLS_MEGABYTES) + images) + STATE_MEGABYTES


def shortage(
    free_megabytes: int, needed: int, where: str, remedy: str = "set DISTTRAIN_CACHE to a folder on a larger disk"
) -> str | None:
    """What to tell the person, if it is too little."""
    if free_megabytes >= needed + KEPT_FREE_MEGABYTES:
        return None
    return (
        f"not enough disk: {needed / 1000:.1f} GB are still to be written below {where}, and only "
        f"{free_megabytes / 1000:.1f} GB are free. Free some, or {remedy}."
    )
