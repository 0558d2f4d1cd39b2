"""Where to cut a chain of layers, and which rank gets which run of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from disttrain_runtime.errors import EntrypointError

CHUNKS = {"gpipe": 1, "1f1b": 1, "interleaved1f1b": 2, "zeroBubble": 2}
"""By schedule: how many runs of layers a rank has. Two are what interleaving needs least; ZB-V is made for two."""

Run = tuple[int, int]
"""Layers from the first number up to the second, which is the next run's."""


def home(chunk: int, stages: int, schedule: str) -> int:
    """Which stage of the grid has a run: one after the other, round and round; in a V for the zero-bubble schedule."""
    lap, place = divmod(chunk, stages)
    return stages - 1 - place if schedule == "zeroBubble" and lap % 2 else place


def require_layers(count: int, parts: int) -> None:
    """Raises EntrypointError when there are fewer layers than runs of them."""
    if parts > count:
        raise EntrypointError(
            f"strategy.parallelism.pipeline wants {parts} runs of layers, but the model has {count} layers: "
            f"fewer stages, or cut the model finer"
        )


def balanced(costs: Sequence[float], parts: int) -> list[Run]:
    """The cut in which the most expensive run is as cheap as can be; among those, early runs are the short ones.

    Dynamic programming over the last cut, O(parts × layers²): `best[p][n]` is the price of the first n layers in p runs.
    """
    count = len(costs)
    require_layers(count, parts)
    before = [0.0]
    for cost in costs:
        before.append(before[-1] + cost)
    best = [[float("inf")] * (count + 1) for _ in range(parts + 1)]
    last = [[0] * (count + 1) for _ in range(parts + 1)]
    best[0][0] = 0.0
    for part in range(1, parts + 1):
        for end in range(part, count + 1):
            for cut in range(part - 1, end):
                price = max(best[part - 1][cut], before[end] - before[cut])
                if price < best[part][end]:
                    best[part][end], last[part][end] = price, cut
    ends = [count]
    for part in range(parts, 0, -1):
        ends.append(last[part][ends[-1]])
    ends.reverse()
    return list(zip(ends, ends[1:], strict=False))


def explicit(names: Sequence[str], begins: Sequence[str], parts: int) -> list[Run]:
    """The cut that the job says: names of the layers that begin a run, all but the first."""
    unknown = [name for name in begins if name not in names]
    if unknown:
        raise EntrypointError(
            f"strategy.parallelism.pipeline.split names {unknown[0]!r}, but the model's layers are: {', '.join(names)}"
        )
    if len(begins) != parts - 1:
        raise EntrypointError(
            f"strategy.parallelism.pipeline.split has {len(begins)} names, but {parts} runs of layers begin at {parts - 1} cuts"
        )
    ends = [0, *(names.index(name) for name in begins), len(names)]
    if any(first >= end for first, end in zip(ends, ends[1:], strict=False)):
        raise EntrypointError(
            "strategy.parallelism.pipeline.split must name layers in their order, each once, and not the first layer"
        )
    return list(zip(ends, ends[1:], strict=False))
