"""Nested state as JSON and tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from disttrain_runtime.checkpoint.structure import put_together, take_apart
from disttrain_runtime.errors import TaskError

pytestmark = pytest.mark.torch

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def there_and_back(state: dict[str, Any]) -> dict[str, Any]:
    structure, tensors = take_apart(state)
    return put_together(structure, tensors)


@given(trees)
def test_whatever_json_can_say_survives_with_its_type(tree: Any) -> None:
    state = {"top": {"it": tree}}
    back = there_and_back(state)
    assert back == state
    assert repr(back) == repr(state), "1, 1.0 and True are equal, but not the same"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_lacks_survive(value: float) -> None:
    back = there_and_back({"schedule": {"best": value}})["schedule"]["best"]
    assert str(back) == str(value)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.LBFGS, torch.optim.RMSprop]
)
def test_real_optimizers_survive(optimizer: Any) -> None:
    model = torch.nn.Linear(3, 2)
    opt = optimizer(model.parameters(), lr=0.1)

    def closure() -> Any:
        opt.zero_grad()
        loss = model(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    opt.step(closure)
    state = opt.state_dict()
    fresh = optimizer(model.parameters(), lr=0.5)
    fresh.load_state_dict(there_and_back({"optimizer": state})["optimizer"])
    assert str(fresh.state_dict()) == str(state)


def test_tensors_whose_paths_read_alike_are_kept_apart() -> None:
    state = {"model": {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}}
    back = there_and_back(state)
    assert (back["model"]["a.b"].item(), back["model"]["a"]["b"].item()) == (1.0, 0.0)


def test_the_models_tensors_keep_their_names() -> None:
    """So that `model.safetensors` is of use to others."""
    _, tensors = take_apart({"model": dict(torch.nn.Sequential(torch.nn.Linear(1, 1)).state_dict())})
    assert set(tensors["model"]) == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"optimizer": {"f": print}}, "optimizer.f cannot be saved: it is a builtins.builtin_function_or_method"),
        ({"optimizer": {"s": {1, 2}}}, "optimizer.s cannot be saved: it is a builtins.set"),
        ({"optimizer": {("a",): 1}}, "a key of type tuple"),
        ({"optimizer": [b"x"]}, "optimizer.0 cannot be saved: it is a builtins.bytes"),
    ],
)
def test_what_only_pickle_could_keep_is_refused_by_name(state: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TaskError, match=complaint):
        take_apart(state)


@pytest.mark.parametrize(
    "structure",
    [
        b"", b"[]", b"nonsense", b'{"a": {"tensor": "missing"}}', b'{"a": {"exec": "rm"}}', b'{"a": {}}', b'{"a": {"list": 5}}',
        b'{"a": {"dict": [[1]]}}', b'{"a": {"dict": [[{}, 1]]}}', b'{"a": {"float": "x"}}', b'{"a": [1]}', b'{"a": {"tensor": [1]}}',
        b'{"a": ' + b'{"list": [' * 5000 + b"]}" * 5000 + b"}", b'{"a": ' + b'{"list": [' * 200 + b"]}" * 200 + b"}",
    ],
)  # fmt: skip
def test_a_malicious_structure_is_a_value_error(structure: bytes) -> None:
    with pytest.raises(ValueError):
        put_together(structure, {})
