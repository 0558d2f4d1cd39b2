"""The object itself: metadata, spec, status."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from disttrain.api.schema import Rule
from disttrain.api.spec import DistTrainJobSpec
from disttrain.api.status import DistTrainJobStatus
from disttrain_contract import labels, names

NAME_RULES = (
    Rule(f"size(self.metadata.name) <= {names.MAX_JOB_NAME}", f"metadata.name must have at most {names.MAX_JOB_NAME} characters: pods are named NAME-INDEX and their host names have at most 63"),
    Rule("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')", "metadata.name must start with a letter and hold only a-z, 0-9 and '-': it names a Service too"),
)  # fmt: skip


class Metadata(BaseModel):
    """The parts of ObjectMeta that we look at; the rest is kept."""

    model_config = ConfigDict(extra="allow")
    name: str
    namespace: str | None = None


class DistTrainJob(BaseModel):
    """DistTrainJob keeps a PyTorch training job running on a group of worker pods."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    api_version: Literal["disttrain.dev/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["DistTrainJob"]
    metadata: Metadata
    spec: DistTrainJobSpec
    status: DistTrainJobStatus | None = None


assert labels.API_VERSION == "disttrain.dev/v1alpha1" and labels.KIND == "DistTrainJob"


def to_wire(model: BaseModel) -> dict[str, Any]:
    """As it is written to the API server: camelCase, nothing that was not set."""
    return model.model_dump(by_alias=True, exclude_none=True, mode="json")
