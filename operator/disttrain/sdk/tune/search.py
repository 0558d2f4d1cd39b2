"""The file of `disttrain tune`: what to look for, and where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from disttrain.api.schema import ApiModel
from disttrain.sdk.errors import BadInput
from disttrain_contract import labels

STUDY = f"{labels.GROUP}/study"
"""Label: which search a job belongs to."""
TRIAL = f"{labels.GROUP}/trial"
"""Label: which trial of it a job is."""
STUDY_ID = f"{labels.GROUP}/study-id"
"""Annotation: two searches of the same name are told apart by it."""

Value = int | float | str | bool
Argument = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$", max_length=64)]


class Range(ApiModel):
    """Numbers between two bounds, both of them possible. Whole numbers when both bounds are."""

    low: int | float
    high: int | float
    step: int | float | None = Field(None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _sense(self) -> Range:
        if self.low >= self.high:
            raise ValueError("low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError("on a logarithmic scale low must be greater than 0")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        return self

    @property
    def whole(self) -> bool:
        """Only whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)


class Choices(ApiModel):
    """One of several values."""

    choices: list[Value] = Field(min_length=1)


class Prune(ApiModel):
    """Give up a trial that is worse than the median of the others at the same step."""

    startup_trials: int = Field(4, ge=0, description="Not before so many have ended.")
    warmup_steps: int = Field(0, ge=0, description="Not before this step.")


class Search(ApiModel):
    """One search."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=44)]
    """Trials are jobs of this name and a number."""
    metric: Annotated[str, Field(min_length=1, max_length=64)]
    mode: Literal["min", "max"]
    trials: int = Field(ge=1, le=100_000)
    parallel: int = Field(1, ge=1, le=1000)
    seed: int = Field(0, ge=0)
    parameters: dict[Argument, Range | Choices] = Field(min_length=1)
    """They become arguments of the job: `--name=value`."""
    prune: Prune | None = None
    job: dict[str, Any]
    """What all trials have alike."""

    @property
    def every_steps(self) -> int | None:
        """How often a trial is evaluated while it trains."""
        evaluation = (self.job.get("spec") or {}).get("evaluation") or {}
        found = evaluation.get("everySteps")
        return found if isinstance(found, int) and found > 0 else None

    def job_name(self, number: int) -> str:
        """Of one trial: the same whoever asks, so that none is started twice."""
        return f"{self.name}-{number}"

    def manifest(self, number: int, parameters: Mapping[str, Value], study_id: str) -> dict[str, Any]:
        """The job of one trial."""
        spec, metadata = dict(self.job.get("spec") or {}), dict(self.job.get("metadata") or {})
        arguments = [f"--{name}={_text(value)}" for name, value in parameters.items()]
        metadata["name"] = self.job_name(number)
        metadata["labels"] = {**(metadata.get("labels") or {}), STUDY: self.name, TRIAL: str(number)}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), STUDY_ID: study_id}
        spec["args"] = [*(spec.get("args") or []), *arguments]
        return {**self.job, "metadata": metadata, "spec": spec}


def read(path: str | Path) -> Search:
    """Raises BadInput with every mistake. `job` is a job, or the path of a job file beside this one."""
    from disttrain.sdk import manifest

    try:
        raw = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise BadInput(f"{path} is not a search: it must have name, metric, mode, trials, parameters and job")
    if isinstance(raw.get("job"), str):
        raw = raw | {"job": manifest.read(str(Path(path).parent / raw["job"]))}
    try:
        found = Search.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{path}: " + "; ".join(map(_sentence, error.errors()))) from None
    if found.prune is not None and found.every_steps is None:
        raise BadInput(
            f"{path}: prune looks at evaluations while a trial trains, and there are none",
            hint="set spec.evaluation.everySteps in the job",
        )
    return found


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"] if part not in ("Range", "Choices"))
    return f"{place}: {error['msg']}"
