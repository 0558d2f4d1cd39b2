"""The API: pydantic models, the one source of the CRD and of its documentation."""
