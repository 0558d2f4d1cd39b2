"""GPUs are counted without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from disttrain_runtime.agent.devices import processes_per_worker, visible_gpus

NODES = ["nvidia0", "nvidia1", "nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"]


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 4),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 4),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, 4),
        ({"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}, 4),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-1,GPU-2"}, 2),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-1,GPU-2", "CUDA_VISIBLE_DEVICES": "0"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, 3),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, 4),
    ],
)
def test_device_nodes_narrowed_by_what_cuda_obeys(tmp_path: Path, environment: dict[str, str], count: int) -> None:
    for name in NODES:
        (tmp_path / name).touch()
    assert visible_gpus(environment, tmp_path) == count


def test_an_image_that_asks_for_all_gpus_on_a_node_without_one(tmp_path: Path) -> None:
    assert visible_gpus({"NVIDIA_VISIBLE_DEVICES": "all"}, tmp_path) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == 0
    assert visible_gpus({}, tmp_path / "nowhere") == 0


def test_one_process_per_gpu_unless_told_otherwise() -> None:
    assert [processes_per_worker(None, gpus) for gpus in (0, 1, 8)] == [1, 1, 8]
    assert processes_per_worker(3, 8) == 3
