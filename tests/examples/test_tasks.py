"""What the examples' tasks build: shapes, data that is what it says, and a step that lowers the loss."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from disttrain_runtime.data import Batch, training_batches
from disttrain_runtime.sampler import SampleOrder
from disttrain_runtime.task import Task

pytestmark = pytest.mark.torch

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {"digits": {}, "language": {"steps": 30}, "speech": {"voices": 6}}


@pytest.fixture(autouse=True)
def _examples_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def build(name: str) -> Task:
    torch.manual_seed(0)
    return importlib.import_module(f"{name}.task").build(**SMALL[name])  # type: ignore[no-any-return]


def first_batch(task: Task) -> Batch:
    order = SampleOrder(seed=0, samples=len(task.train_data), batch_size=task.batch_size)
    return next(training_batches(task, order, [order.share(0, 0, 1)], torch.device("cpu")))


@pytest.mark.parametrize("name", SMALL)
def test_ten_steps_on_one_batch_lower_its_loss(name: str) -> None:
    task = build(name)
    batch = first_batch(task)
    optimizer = task.optimizer(task.model.parameters())
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = task.loss(task.model(batch.inputs), batch.targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_a_metric_has_one_value_for_each_sample(name: str) -> None:
    task = build(name)
    inputs, targets = torch.utils.data.default_collate([task.eval_data[i] for i in range(5)])
    with torch.no_grad():
        outputs = task.model.eval()(inputs)
    for metric in task.metrics.values():
        assert len(metric(outputs, targets)) == 5


def test_the_language_model_sees_no_character_before_it_must_guess_it() -> None:
    model = build("language").model.eval()
    text = torch.randint(0, 60, (1, 64))
    other = text.clone()
    other[0, 40:] += 1
    with torch.no_grad():
        before, after = model(text), model(other)
    torch.testing.assert_close(before[0, :40], after[0, :40])
    assert not torch.equal(before[0, 40:], after[0, 40:])


def test_a_passage_is_followed_by_its_next_character_and_none_of_the_evaluated_part_is_trained_on() -> None:
    task = build("language")
    for data in (task.train_data, task.eval_data):
        for index in (0, len(data) - 1):
            inputs, targets = data[index]
            assert len(inputs) == len(targets) == 64 and torch.equal(inputs[1:], targets[:-1])
    whole = (EXAMPLES / "text" / "alice.txt").read_text(encoding="ascii")
    assert len(task.train_data.text) + len(task.eval_data.text) == len(whole)


def test_a_chain_of_layers_each_of_which_takes_one_tensor() -> None:
    model = build("language").model
    assert isinstance(model, torch.nn.Sequential) and len(model) == 7
    value = torch.zeros(2, 64, dtype=torch.int64)
    for layer in model:
        value = layer(value)
    assert value.shape[:2] == (2, 64)


def test_a_voice_says_the_same_whenever_it_is_asked_and_no_two_voices_are_alike() -> None:
    voices = importlib.import_module("speech.voices")
    once, again, other = voices.speak(3, 0), voices.speak(3, 0), voices.speak(6, 0)
    assert once.shape == (len(voices.WORDS), voices.LENGTH)
    assert (once == again).all()
    assert abs(once).max() <= 1.1
    assert not (once == other).all(axis=1).any(), "no word is the same twice"


def test_the_resonances_of_a_vowel_are_where_peterson_and_barney_found_them() -> None:
    """The formula has its peaks at the formants of the table, which lie apart for "heed" by a man: 270, 2290 and 3010 Hz."""
    voices = importlib.import_module("speech.voices")
    import numpy as np

    frequencies = np.arange(50.0, 4000.0)
    gain = voices._resonance(frequencies, np.array(voices.MEN[0][1:]))
    peaks = [f for f, a, b, c in zip(frequencies[1:], gain, gain[1:], gain[2:], strict=False) if a < b > c]
    assert peaks == pytest.approx([270, 2290, 3010], abs=25)
