"""The API: pydantic models, the one source of the CRD and of its documentation."""

from disttrain.api.job import DistTrainJob, to_wire
from disttrain.api.spec import DistTrainJobSpec
from disttrain.api.status import DistTrainJobStatus

__all__ = ["DistTrainJob", "DistTrainJobSpec", "DistTrainJobStatus", "to_wire"]
