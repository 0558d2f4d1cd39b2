"""The job cannot become a manifest."""

from __future__ import annotations


class SpecError(Exception):
    """The user must edit the job. Never retried: it is shown in the job's conditions."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
