"""A language model as a task: a small transformer that predicts the next character of Alice in Wonderland."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from disttrain_runtime.task import Task

TEXT = Path(__file__).parents[1] / "text" / "alice.txt"
CONTEXT = 64
EVALUATED_PART = 10
"""The last tenth of the book is never trained on."""
WARM_UP = 20
"""Steps over which the learning rate rises: the first gradients of a transformer are wild."""


class Passages(Dataset[tuple[Tensor, Tensor]]):
    """The text in pieces of 64 characters, each with the same piece one character on.

    With `wander`, a piece begins up to 63 characters after its place, differently in every epoch: each epoch covers the
    whole text, and none cuts it where another did.
    """

    def __init__(self, text: Tensor, *, wander: bool) -> None:
        self.text, self.wander = text, wander

    def __len__(self) -> int:
        return (len(self.text) - 1) // CONTEXT - self.wander

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * CONTEXT + (int(torch.randint(CONTEXT, ())) if self.wander else 0)
        piece = self.text[start : start + CONTEXT + 1].long()
        return piece[:-1], piece[1:]


def load() -> tuple[str, Passages, Passages]:
    """The alphabet, training and evaluation data."""
    content = TEXT.read_text(encoding="ascii")
    alphabet = "".join(sorted(set(content)))
    text = torch.tensor([alphabet.index(c) for c in content], dtype=torch.uint8)
    cut = len(text) - len(text) // EVALUATED_PART
    return alphabet, Passages(text[:cut], wander=True), Passages(text[cut:], wander=False)


class Embedding(nn.Module):
    """Characters and their places → vectors."""

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.character, self.place = nn.Embedding(characters, width), nn.Embedding(CONTEXT, width)

    def forward(self, text: Tensor) -> Tensor:
        return self.character(text) + self.place.weight[: text.shape[1]]


class Block(nn.Module):
    """Attention to what came before, then a perceptron, each added to what it saw (pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.head, self.dropout = width // heads, dropout
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.before_attention(hidden))
        return hidden + self.perceptron(self.before_perceptron(hidden))

    def attention(self, hidden: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(hidden).unflatten(-1, (-1, self.head)).transpose(1, 2) for layer in layers)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.mix(seen.transpose(1, 2).flatten(-2))


TENSOR_PLAN = {
    "*.query": "column", "*.key": "column", "*.value": "column", "*.mix": "row",
    "*.perceptron.0": "column", "*.perceptron.2": "row",
}  # fmt: skip
"""How ranks share a block (strategy.parallelism.tensor, also with sequence): each has whole heads, so how many follows from what it sees."""


def network(characters: int, width: int, heads: int, layers: int, dropout: float) -> nn.Sequential:
    """A chain of parts, each of which takes one tensor and gives one: it can be cut between any two."""
    blocks = [Block(width, heads, dropout) for _ in range(layers)]
    return nn.Sequential(Embedding(characters, width), *blocks, nn.LayerNorm(width), nn.Linear(width, characters))


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per character, in nats."""
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def guessed(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each next character that is the likeliest one: the runtime adds them up over all workers."""
    return outputs.argmax(dim=2) == targets


def rise_and_fall(step: int, steps: int) -> float:
    """Factor on the learning rate: up in 20 steps, then down to a tenth in a straight line."""
    return min((step + 1) / WARM_UP, 1.0 - 0.9 * step / steps)


def build(
    steps: int = 600,
    batch_size: int = 32,
    lr: float = 0.003,
    width: int = 96,
    heads: int = 4,
    layers: int = 4,
    dropout: float = 0.1,
) -> Task:
    """What to train.

    Args:
        steps: how many; 64 of them see the whole text once
        batch_size: pieces of 64 characters per step, over all workers together
        lr: the highest learning rate
        width: length of the vector for each character
        heads: of attention; divides width
        layers: blocks between embedding and output
        dropout: share of values that are left out in training
    """
    alphabet, train, test = load()
    return Task(
        model=network(len(alphabet), width, heads, layers, dropout),
        train_data=train,
        eval_data=test,
        loss=mean_loss,
        metrics={"accuracy": guessed},
        optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=0.05),
        schedule=partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=partial(rise_and_fall, steps=steps)),
        batch_size=batch_size,
        steps=steps,
        tensor_plan=TENSOR_PLAN,
    )
