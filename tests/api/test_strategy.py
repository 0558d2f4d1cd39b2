"""What makes no sense together is refused when it is applied, with the reason; what does is let through."""

from __future__ import annotations

from typing import Any

import pytest
from cel import evaluate

from disttrain.api import crd, schema
from disttrain.api.strategy import Strategy


def complaints(spec: dict[str, Any]) -> list[str]:
    """What the API server would say about `spec.strategy`, with the schema's defaults filled in as it does."""
    filled = Strategy.model_validate(spec).model_dump(by_alias=True, exclude_none=True)
    node = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["strategy"]
    found: list[str] = []
    judge(node, filled, found)
    return found


def judge(node: dict[str, Any], value: Any, found: list[str]) -> None:
    found += [r["message"] for r in node.get(schema.RULES, []) if not evaluate(r["rule"], {"self": value})]
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
