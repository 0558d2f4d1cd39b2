"""A job file, and what is wrong with it before a server has to say so."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disttrain.sdk.errors import BadInput
from disttrain_contract import labels

if TYPE_CHECKING:
    from disttrain.api import DistTrainJob

KUBECTL = "the other objects of a file are kubectl's business: kubectl apply -f FILE"


def read(path: str) -> dict[str, Any]:
    """The one DistTrainJob in a YAML or JSON file; `-` is standard input."""
    import yaml

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except OSError as problem:
        raise BadInput(f"cannot read {path}: {problem.strerror or problem}") from problem
    except UnicodeDecodeError as problem:
        raise BadInput(f"{path} is not a text file: {problem.reason}") from problem
    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as problem:
        raise BadInput(f"{path} is not YAML: {_where(problem)}") from problem
    jobs = [d for d in documents if isinstance(d, dict) and d.get("kind") == labels.KIND]
    if len(jobs) == 1 and len(documents) == 1:
        return jobs[0]
    if len(jobs) > 1:
        raise BadInput(f"{path} holds {len(jobs)} jobs: submit them one by one, each has its own result")
    others = ", ".join(sorted({str(d.get("kind")) if isinstance(d, dict) else type(d).__name__ for d in documents}))
    if jobs:
        raise BadInput(f"{path} holds more than the job: {others}", hint=KUBECTL)
    raise BadInput(f"{path} holds no {labels.KIND}" + (f" but: {others}" if others else ": it is empty"))


def _where(problem: Exception) -> str:
    mark = getattr(problem, "problem_mark", None)
    what = getattr(problem, "problem", None) or str(problem)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}" if mark is not None else what


def checked(job: Mapping[str, Any] | DistTrainJob, namespace: str) -> dict[str, Any]:
    """As it is sent: of our kind, with a name and a namespace."""
    if not isinstance(job, Mapping):
        # What was not set is left to the API server's defaults, and to others who may own it.
        job = job.model_dump(by_alias=True, exclude_unset=True, mode="json")
    manifest = dict(job)
    manifest.pop("status", None)
    if manifest.get("kind") != labels.KIND:
        raise BadInput(f"kind is {manifest.get('kind')!r}, not {labels.KIND}")
    if manifest.get("apiVersion") != labels.API_VERSION:
        raise BadInput(f"apiVersion is {manifest.get('apiVersion')!r}: this client speaks {labels.API_VERSION}")
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping) or not (metadata.get("name") or metadata.get("generateName")):
        raise BadInput("metadata.name is missing")
    manifest["metadata"] = {"namespace": namespace, **metadata}
    return manifest
