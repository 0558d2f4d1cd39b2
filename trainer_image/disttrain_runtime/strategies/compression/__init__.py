"""Send fewer bytes: what each rank's gradient becomes on its way to the others. One technique a file, one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from disttrain_contract import strategy as contract
from disttrain_runtime.errors import EntrypointError
from disttrain_runtime.strategies.compression.compressor import Compressor
from disttrain_runtime.strategies.compression.half import Bf16, Fp16
from disttrain_runtime.strategies.compression.power_sgd import PowerSGD
from disttrain_runtime.strategies.compression.sign import Sign
from disttrain_runtime.strategies.compression.top_k import TopK

COMPRESSORS: dict[str, Callable[[contract.Compression, nn.Module], Compressor]] = {
    "fp16": Fp16,
    "bf16": Bf16,
    "powerSGD": PowerSGD,
    "topK": TopK,
    "sign": Sign,
}
"""By the name in `spec.strategy.compression.method`."""


def make_compressor(config: contract.Compression, model: nn.Module) -> Compressor | None:
    """The chosen technique; None: gradients travel as they are."""
    if config.method == contract.NONE:
        return None
    if config.method not in COMPRESSORS:
        raise EntrypointError(
            f"strategy.compression.method {config.method!r} is unknown to this image; it has: {', '.join(COMPRESSORS)}"
        )
    return COMPRESSORS[config.method](config, model)
