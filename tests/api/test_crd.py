"""The CRD is generated, and it says everything that the API server needs to refuse nonsense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cel import evaluate
from pydantic import Field

from disttrain.api import crd, schema

CRDS = Path(__file__).parents[2] / "crds" / "disttrain.dev_disttrainjobs.yaml"


def walk(node: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from walk(node[key], f"{path}[]")


def root() -> dict:
    return crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def messages() -> str:
    return "\n".join(rule["message"] for _, node in walk(root()) for rule in node.get(schema.RULES, []))


def test_the_file_in_crds_is_what_the_models_say() -> None:
    assert CRDS.read_text() == crd.crd_yaml(), "run `make crd` and commit the difference"


def test_every_field_explains_itself() -> None:
    silent = [p for p, n in walk(root()) if not n.get("description") and "[]" not in p.rsplit(".", 1)[-1]]
    assert set(silent) <= {".apiVersion", ".kind", ".metadata"}


def test_the_schema_is_structural_no_reference_no_union_of_objects_no_null() -> None:
    for path, node in walk(root()):
        assert not {"$ref", "$defs", "oneOf", "nullable", "title", "const"} & node.keys(), path
        assert "anyOf" not in node or node.get("x-kubernetes-int-or-string"), path
        assert not [k for k in node if k.startswith("x-disttrain")], path


def test_lists_and_maps_that_users_write_are_bounded() -> None:
    spec = root()["properties"]["spec"]
    for path, node in walk(spec):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path


@pytest.mark.parametrize(
    "field",
    [
        "spec.runtimeRef", "spec.queueName",
        "spec.recovery.rules[].onLog", "spec.recovery.rules[].action",
    ],
)  # fmt: skip
def test_what_has_no_behaviour_yet_is_refused_by_name(field: str) -> None:
    assert f"not implemented yet: {field}" in messages()


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ({"workers": 3}, {"workers": 4}, False),
        ({"workers": 3}, {"workers": 3}, True),
        ({"workers": 3}, {"workers": 4, "elastic": {"minWorkers": 2, "maxWorkers": 4}}, True),
        ({"workers": 4, "elastic": {"minWorkers": 2, "maxWorkers": 4}}, {"workers": 3}, False),
    ],
)
def test_the_number_of_workers_may_change_only_while_the_job_is_elastic(old: dict, new: dict, allowed: bool) -> None:
    rules = root()["properties"]["spec"][schema.RULES]
    (rule,) = [r for r in rules if "oldSelf.workers" in r["rule"]]
    assert evaluate(rule["rule"], {"self": new, "oldSelf": old}) is allowed
    assert rule["message"].startswith("spec.workers cannot be changed after creation without spec.elastic: ")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket/prefix", True),
        ("abfs://box@account.dfs.core.windows.net/x", True),
        ("file:///mnt/nfs", True),
        ("reference://x", False),
        ("simplecache::s3://bucket", False),
        ("s3://key:secret@bucket", False),
        ("s3://bucket/$(id)", False),
        ("bucket", False),
    ],
)
def test_a_second_tier_is_a_plain_place_without_credentials(url: str, allowed: bool) -> None:
    remote = root()["properties"]["spec"]["properties"]["checkpoint"]["properties"]["remote"]
    assert bool(re.search(remote["pattern"], url)) is allowed


@pytest.mark.parametrize(("job", "allowed"), [({"entrypoint": "a:b"}, True), ({"command": ["python"]}, False)])
def test_a_second_tier_belongs_to_jobs_whose_state_we_save(job: dict, allowed: bool) -> None:
    (rule,) = [r for r in root()["properties"]["spec"][schema.RULES] if "checkpoint.remote" in r["rule"]]
    assert evaluate(rule["rule"], {"self": job | {"checkpoint": {"remote": "s3://b"}}}) is allowed


@pytest.mark.parametrize(("workers", "allowed"), [(1, False), (2, True), (4, True), (5, False)])
def test_the_number_of_workers_is_between_the_bounds(workers: int, allowed: bool) -> None:
    (rule,) = [r for r in root()["properties"]["spec"][schema.RULES] if "minWorkers" in r["rule"]]
    spec = {"workers": workers, "elastic": {"minWorkers": 2, "maxWorkers": 4}}
    assert evaluate(rule["rule"], {"self": spec}) is allowed


PRIVACY = {"noiseMultiplier": 1.0, "maxGradNorm": 1.0, "delta": 1e-5}


@pytest.mark.parametrize(
    ("strategy", "because"),
    [
        ({}, None),
        ({"synchronization": {"method": "allReduce"}, "precision": "fp32", "accumulate": 2}, None),
        ({"synchronization": {"method": "gossip"}}, "is for synchronization.method allReduce"),
        ({"compression": {"method": "sign"}}, "privacy with compression is not built"),
        ({"parallelism": {"tensor": 2}}, "every rank must have all of it"),
        ({"parallelism": {"pipeline": {"stages": 2}}}, "every rank must have all of it"),
        ({"parallelism": {"shard": "full"}}, "every rank must have all of it"),
        ({"precision": "bf16"}, "in fp32"),
        ({"maxGradNorm": 1.0}, "leave strategy.maxGradNorm out"),
        ({"activationCheckpointing": True}, "with activationCheckpointing is not built"),
        ({"synchronization": {"staticGraph": True}}, "they wait for their noise"),
    ],
)
def test_privacy_goes_with_what_leaves_a_samples_gradient_whole(strategy: dict, because: str | None) -> None:
    found = root()["properties"]["spec"]["properties"]["strategy"][schema.RULES]
    broken = [r["message"] for r in found if not evaluate(r["rule"], {"self": {"privacy": PRIVACY, **strategy}})]
    ours = [message for message in broken if "privacy" in message]
    assert (because is None and not ours) or any(because in message for message in ours)


@pytest.mark.parametrize(
    ("strategy", "because"),
    [
        ({"synchronization": {"method": "diLoCo"}}, None),
        ({"synchronization": {"method": "modelAveraging", "synchronousSteps": 3}, "accumulate": 2}, None),
        ({"synchronization": {"method": "diLoCo", "fragments": 1}, "precision": "bf16", "maxGradNorm": 1.0}, None),
        ({}, "after steps of their own"),
        ({"synchronization": {}}, "after steps of their own"),
        ({"synchronization": {"method": "parameterServer"}}, "after steps of their own"),
        ({"synchronization": {"method": "gossip"}}, "before any noise is added"),
        ({"synchronization": {"method": "asyncRing"}}, "the clock decides"),
        ({"synchronization": {"method": "roundRobin"}}, "since its last turn"),
        ({"synchronization": {"method": "diLoCo", "fragments": 2}}, "leave fragments out"),
        ({"synchronization": {"method": "diLoCo"}, "precision": "fp16"}, "use fp32 or bf16"),
        ({"parallelism": {"shard": "full"}}, "every rank must have all of it"),
    ],
)
def test_privacy_of_workers_goes_with_methods_that_average_and_keep_the_rest_to_themselves(
    strategy: dict, because: str | None
) -> None:
    found = root()["properties"]["spec"]["properties"]["strategy"][schema.RULES]
    whole = {"privacy": {**PRIVACY, "unit": "worker"}, **strategy}
    broken = [r["message"] for r in found if not evaluate(r["rule"], {"self": whole})]
    assert broken == [] if because is None else any(because in message for message in broken)


@pytest.mark.parametrize(
    ("unit", "rest", "because"),
    [
        ("worker", {"processesPerWorker": 1}, None),
        ("sample", {"processesPerWorker": 4, "elastic": {}}, None),
        ("worker", {"processesPerWorker": 2}, "what one process has trained on"),
        ("worker", {"processesPerWorker": "auto"}, "what one process has trained on"),
        ("worker", {}, "what one process has trained on"),
        ("worker", {"processesPerWorker": 1, "elastic": {}}, "leave elastic out"),
    ],
)
def test_a_worker_that_hides_is_one_process_with_one_part_of_the_data(
    unit: str, rest: dict, because: str | None
) -> None:
    rules = [r for r in root()["properties"]["spec"][schema.RULES] if "strategy.privacy.unit" in r["rule"]]
    assert len(rules) == 2
    strategy = {"privacy": {**PRIVACY, "unit": unit}}
    broken = [r["message"] for r in rules if not evaluate(r["rule"], {"self": {"strategy": strategy, **rest}})]
    assert broken == [] if because is None else [m for m in broken if because in m] == broken


GPUS = {"resources": {"limits": {"cpu": "4", "nvidia.com/gpu": 2}}}


@pytest.mark.parametrize(
    ("rest", "allowed"),
    [
        ({"processesPerWorker": 2}, True),
        ({"processesPerWorker": 1}, False),
        ({"processesPerWorker": 1, **GPUS}, False),
        ({"processesPerWorker": "auto"}, False),
        ({"processesPerWorker": "auto", **GPUS}, True),
        ({"processesPerWorker": "auto", "resources": {"limits": {"nvidia.com/gpu": "8"}}}, True),
        ({"processesPerWorker": "auto", "resources": {"limits": {"nvidia.com/gpu": "1"}}}, False),
        ({"processesPerWorker": "auto", "resources": {"requests": {"cpu": "4"}}}, False),
        ({}, False),
    ],
)
def test_a_model_is_cut_inside_workers_only_where_a_worker_has_several_ranks(rest: dict, allowed: bool) -> None:
    (rule,) = [r for r in root()["properties"]["spec"][schema.RULES] if "shard hybrid" in r["message"]]
    spec = {"strategy": {"parallelism": {"tensor": 1, "shard": "hybrid"}}, **rest}
    assert evaluate(rule["rule"], {"self": spec}) is allowed
    for shard in ("full", "none"):
        spec["strategy"]["parallelism"]["shard"] = shard
        assert evaluate(rule["rule"], {"self": spec}) is True


@pytest.mark.parametrize(
    ("schedule", "stages", "microbatches", "allowed"),
    [
        ("1f1b", 3, 2, False),
        ("1f1b", 3, 3, True),
        ("gpipe", 3, 1, True),
        ("zeroBubble", 3, 1, True),
        ("interleaved1f1b", 3, 2, True),
        ("interleaved1f1b", 3, 7, False),
        ("interleaved1f1b", 3, 8, True),
    ],
)
def test_a_schedule_says_how_many_microbatches_it_goes_with(
    schedule: str, stages: int, microbatches: int, allowed: bool
) -> None:
    """The same that the ranks' schedules would say, minutes later."""
    node = root()["properties"]["spec"]["properties"]["strategy"]["properties"]["parallelism"]["properties"]["pipeline"]
    pipeline = {"stages": stages, "schedule": schedule, "microbatches": microbatches}
    assert all(evaluate(r["rule"], {"self": pipeline}) for r in node[schema.RULES]) is allowed
    del pipeline["microbatches"]
    assert all(evaluate(r["rule"], {"self": pipeline}) for r in node[schema.RULES])


@pytest.mark.parametrize(
    ("parallelism", "allowed"),
    [
        ({"tensor": 2, "sequence": True}, True),
        ({"tensor": 1, "sequence": False}, True),
        ({"sequence": True}, False),
        ({"tensor": 1, "sequence": True}, False),
    ],
)
def test_sequences_are_divided_over_ranks_that_share_layers(parallelism: dict, allowed: bool) -> None:
    strategy = root()["properties"]["spec"]["properties"]["strategy"]
    (rule,) = [r for r in strategy["properties"]["parallelism"][schema.RULES] if "self.sequence" in r["rule"]]
    assert evaluate(rule["rule"], {"self": {"shard": "none", **parallelism}}) is allowed


@pytest.mark.parametrize(
    ("rest", "allowed"),
    [
        ({"entrypoint": "a:b", "checkpoint": {}}, True),
        ({"entrypoint": "a:b"}, False),
        ({"command": ["x"], "checkpoint": {}}, False),
    ],
)
def test_privacy_needs_a_volume_and_a_task(rest: dict, allowed: bool) -> None:
    (rule,) = [r for r in root()["properties"]["spec"][schema.RULES] if "strategy.privacy needs" in r["message"]]
    assert evaluate(rule["rule"], {"self": {"strategy": {"privacy": PRIVACY}, **rest}}) is allowed


@pytest.mark.parametrize(
    ("evaluation", "allowed"),
    [
        ({"everySteps": 5, "mode": "min"}, True),
        ({"everySteps": 5, "metric": "accuracy", "mode": "max", "earlyStop": {"patience": 2}}, True),
        ({"metric": "accuracy", "mode": "max", "earlyStop": {"patience": 2}}, False),
        ({"everySteps": 5, "mode": "min", "earlyStop": {"patience": 2}}, False),
        ({"everySteps": 5, "mode": "max"}, False),
    ],
)
def test_an_early_end_needs_a_measure_and_occasions(evaluation: dict, allowed: bool) -> None:
    found = root()["properties"]["spec"]["properties"]["evaluation"][schema.RULES]
    assert all(evaluate(r["rule"], {"self": evaluation}) for r in found) is allowed


def test_the_printer_columns() -> None:
    columns = crd.crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [c["name"] for c in columns if not c.get("priority")] == [
        "State",
        "Workers",
        "Step",
        "Loss",
        "Recoveries",
        "Age",
    ]


def test_conditions_are_a_map_by_type_so_that_writers_do_not_overwrite_each_other() -> None:
    conditions = root()["properties"]["status"]["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


def test_a_model_that_a_structural_schema_cannot_say_is_an_error_for_us() -> None:
    class Bad(schema.ApiModel):
        either: list[str] | dict[str, str] = Field(description="no")

    with pytest.raises(crd.SchemaError, match="cannot say"):
        crd.structural(Bad)


def test_it_is_one_valid_yaml_document() -> None:
    assert yaml.safe_load(CRDS.read_text())["metadata"]["name"] == "disttrainjobs.disttrain.dev"
