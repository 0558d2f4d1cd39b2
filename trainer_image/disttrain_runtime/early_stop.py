"""Which evaluation was the best, and whether it is time to stop. Pure functions of the evaluations so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

from disttrain_contract.env import EvaluationConfig
from disttrain_contract.messages import Best, Ending
from disttrain_runtime.history import Line

MIN = "min"
CANDIDATES = 8
"""So many of the best steps are named to the retention of checkpoints: the first that is on the volume is kept."""


def ranking(lines: Sequence[Line], config: EvaluationConfig) -> list[Best]:
    """The best first; of two that are equal the earlier one. What is not a number is never good."""
    metric = config.metric
    if metric is None:
        return []
    found = [
        Best(metric=metric, value=line.evaluation[metric], step=line.step)
        for line in lines
        if metric in line.evaluation
    ]
    sign = 1 if config.mode == MIN else -1
    return sorted((b for b in found if math.isfinite(b.value)), key=lambda b: (sign * b.value, b.step))


def best(lines: Sequence[Line], config: EvaluationConfig) -> Best | None:
    """None before the first."""
    return next(iter(ranking(lines, config)), None)


def verdict(lines: Sequence[Line], config: EvaluationConfig) -> Ending | None:
    """Stop when so many evaluations in a row were no better, by at least `min_delta`, than the best one before them."""
    patience, metric = config.patience, config.metric
    if patience is None or metric is None:
        return None
    sign = -1.0 if config.mode == MIN else 1.0
    record: tuple[float, int] | None = None
    waited = 0
    for line in lines:
        if metric not in line.evaluation:
            continue
        value = sign * line.evaluation[metric]
        if math.isfinite(value) and (record is None or value > record[0] + config.min_delta):
            record, waited = (value, line.step), 0
        else:
            waited += 1
    if waited < patience:
        return None
    since = f"{sign * record[0]:.6g} at step {record[1]}" if record is not None else "none was a number"
    return Ending(reason="EarlyStop", message=f"{metric} was no better for {patience} evaluations (best {since})")
