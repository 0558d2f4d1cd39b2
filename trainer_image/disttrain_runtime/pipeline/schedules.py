"""The orders in which microbatches go forward and backward: torch's schedules under the names of the API.

With S stages, M microbatches and a forward and backward of equal length on all stages, the share of the time in which a rank idles is
GPipe, 1F1B: (S - 1) / (M + S - 1) — Huang et al. 2019, "GPipe"; Narayanan et al. 2019, "PipeDream", which holds S activations, not M;
interleaved with v runs of layers a rank: (S - 1) / (vM + S - 1) — Narayanan et al. 2021, "Efficient Large-Scale Language Model Training";
ZB-V: 0 when forward, backward for inputs and backward for weights take equally long — Qi et al. 2023, "Zero Bubble Pipeline Parallelism".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from disttrain_runtime.errors import EntrypointError

_SINGLE: dict[str, type[ScheduleGPipe | Schedule1F1B]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
_SEVERAL: dict[str, type[ScheduleInterleaved1F1B | ScheduleZBVZeroBubble]] = {
    "interleaved1f1b": ScheduleInterleaved1F1B,
    "zeroBubble": ScheduleZBVZeroBubble,
}
Schedule = PipelineScheduleSingle | PipelineScheduleMulti


def make_schedule(
    name: str, stages: Sequence[PipelineStage], microbatches: int, loss: Callable[[Any, Any], Tensor]
) -> Schedule:
    """Gradients are the sums over the microbatches: their losses are weighted already."""
    try:
        if name in _SINGLE:
            return _SINGLE[name](stages[0], microbatches, loss_fn=loss, scale_grads=False)
        return _SEVERAL[name](list(stages), microbatches, loss_fn=loss, scale_grads=False)
    except ValueError as error:
        raise EntrypointError(
            f"strategy.parallelism.pipeline: schedule {name} with {microbatches} microbatches: {error}"
        ) from error
