"""What makes no sense together is refused when it is applied, with the reason; what does is let through."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cel import evaluate

from disttrain.api import crd, schema
from disttrain.api.spec import DistTrainJobSpec
from disttrain.api.strategy import Strategy


def complaints(spec: dict[str, Any]) -> list[str]:
    """What the API server would say about `spec.strategy`, with the schema's defaults filled in as it does."""
    filled = Strategy.model_validate(spec).model_dump(by_alias=True, exclude_none=True)
    found: list[str] = []
    judge(spec_node()["properties"]["strategy"], filled, found)
    return found


@cache
def spec_node() -> dict[str, Any]:
    """The schema of `spec`. Making it takes longer than asking its rules."""
    node: dict[str, Any] = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return node


def judge(node: dict[str, Any], value: Any, found: list[str]) -> None:
    at_creation = [r for r in node.get(schema.RULES, []) if "oldSelf" not in r["rule"]]
    found += [r["message"] for r in at_creation if not evaluate(r["rule"], {"self": value})]
    for name, child in node.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            judge(child, value[name], found)


@pytest.mark.parametrize("method", ["none", "fp16", "bf16", "powerSGD", "topK", "sign"])
def test_every_compression_goes_with_all_reduce(method: str) -> None:
    assert complaints({"compression": {"method": method}, "accumulate": 2, "precision": "fp16"}) == []


@pytest.mark.parametrize("synchronization", [{"servers": 2}, {"maxStaleness": 4}, {"servers": 1, "maxStaleness": 0}])
def test_a_parameter_server_says_how_many_and_how_old(synchronization: dict[str, Any]) -> None:
    assert complaints({"synchronization": {"method": "parameterServer", **synchronization}, "maxGradNorm": 1.0}) == []


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (
            {"compression": {"method": "topK"}, "synchronization": {"method": "parameterServer"}},
            "compression is for gradients that are all-reduced",
        ),
        ({"compression": {"method": "sign", "rank": 2}}, "compression.rank is for powerSGD"),
        ({"compression": {"method": "sign", "ratio": 0.1}}, "compression.ratio is for topK"),
        (
            {"compression": {"method": "sign"}, "parallelism": {"tensor": 2}},
            "compression is for ranks that each have the whole model",
        ),
        (
            {"precision": "fp16", "synchronization": {"method": "parameterServer"}},
            "no parameter server sees all of them: use bf16",
        ),
        ({"synchronization": {"servers": 2}}, "servers is for parameterServer"),
        ({"synchronization": {"maxStaleness": 2}}, "maxStaleness is for parameterServer and asyncRing"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(spec: dict[str, Any], reason: str) -> None:
    assert any(reason in complaint for complaint in complaints(spec))


DOCS = Path(__file__).parents[2] / "docs" / "strategies" / "README.md"
YES, NOT_BUILT, NO = "✓", "○", "—"
NOISE = {"noiseMultiplier": 1.0, "maxGradNorm": 1.0, "delta": 1e-5}


def by(method: str) -> dict[str, Any]:
    return {"strategy": {"synchronization": {"method": method}}}


WAYS: dict[str, list[dict[str, Any]]] = {
    "allReduce": [by("allReduce")],
    "parameterServer": [by("parameterServer")],
    "modelAveraging, diLoCo": [by("modelAveraging"), by("diLoCo")],
    "roundRobin, asyncRing, gossip": [by("roundRobin"), by("asyncRing"), by("gossip")],
    "compression": [{"strategy": {"compression": {"method": "topK"}}}],
    "pipeline": [{"strategy": {"parallelism": {"pipeline": {"stages": 2}}}}],
    "tensor": [{"strategy": {"parallelism": {"tensor": 2}}}],
    "shard": [{"strategy": {"parallelism": {"shard": "full"}}}],
    "privacy": [{"strategy": {"privacy": NOISE}}],
    "privacy of workers": [{"strategy": {"privacy": {**NOISE, "unit": "worker"}}}],
    "accumulate": [{"strategy": {"accumulate": 2}}],
    "bf16": [{"strategy": {"precision": "bf16"}}],
    "fp16": [{"strategy": {"precision": "fp16"}}],
    "activationCheckpointing": [{"strategy": {"activationCheckpointing": True}}],
    "maxGradNorm": [{"strategy": {"maxGradNorm": 1.0}}],
    "elastic": [{"elastic": {"minWorkers": 2, "maxWorkers": 4}}],
}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {k: merged(v, other[k]) for k, v in one.items() if isinstance(v, dict) and isinstance(other.get(k), dict)}
    return {**one, **other, **both}


def verdict(row: str, column: str) -> str:
    """What the API server says to both in one job, of four workers with one process each."""
    if {row, column} == {"privacy", "privacy of workers"}:
        return NO  # two values of one field
    job = {
        "image": "x",
        "entrypoint": "a:b",
        "workers": 4,
        "processesPerWorker": 1,
        "checkpoint": {"volume": {"size": "1Gi"}},
    }
    if row == "privacy of workers":  # it is with one of these, or with nothing
        job = merged(job, by("modelAveraging"))
    found = set()
    for one, other in product(WAYS[row], WAYS[column]):
        spec = DistTrainJobSpec.model_validate(merged(merged(job, one), other))
        said: list[str] = []
        judge(spec_node(), spec.model_dump(by_alias=True, exclude_none=True), said)
        found.add(YES if not said else NOT_BUILT if any("not built" in words for words in said) else NO)
    (same,) = found
    return same


def table() -> dict[str, dict[str, str]]:
    """Row → column → mark, as the page shows it."""
    lines = DOCS.read_text().split("**What goes together**")[1].strip().splitlines()
    rows = [[c.strip().replace("`", "") for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    (_, *columns), _, *body = rows
    return {name: dict(zip(columns, marks, strict=True)) for name, *marks in body}


def test_the_docs_say_what_goes_together_as_the_api_server_does() -> None:
    shown = table()
    assert set(shown) | set(next(iter(shown.values()))) == set(WAYS), "something is in no row and no column"
    for row, marks in shown.items():
        assert {c: mark for c, mark in marks.items() if mark} == {c: verdict(row, c) for c in marks if c != row}, row
