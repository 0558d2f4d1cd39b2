"""Which of ten words was said: a spectrogram classifier on SYNTHETIC speech (see voices.py). Nothing to download."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from disttrain_runtime.task import Task
from speech.voices import RATE, WORDS, speak

WINDOW, HOP, BANDS = 256, 80, 40
"""32 ms of sound, every 10 ms, in 40 bands: what speech recognisers have long used."""
TEST_VOICES = 30
"""Voices that training never hears."""


def mel_filters() -> Tensor:
    """Triangles, evenly spaced in mel(f) = 2595·log10(1 + f/700): the ear is finer at low frequencies."""
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    return torch.tensor(np.maximum(0, np.minimum(rising, falling)), dtype=torch.float32)


FILTERS = mel_filters()


def spectrogram(sound: Tensor) -> Tensor:
    """Sound → (1, time, band): the logarithm of the energy in each band."""
    spectrum = torch.stft(sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    return torch.log(spectrum.abs().square().T @ FILTERS + 1e-3).unsqueeze(0)


class Utterances(Dataset[tuple[Tensor, Tensor]]):
    """Spectrograms with the number of the word; when training, the sound is shifted and gets noise, differently in every epoch."""

    def __init__(self, sound: Tensor, words: Tensor, *, disturb: bool) -> None:
        self.sound, self.words, self.disturb = sound, words, disturb

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sound = self.sound[index]
        if self.disturb:
            sound = sound.roll(int(torch.randint(-200, 201, ())))
            sound = sound + 0.03 * torch.rand(()) * torch.randn(len(sound))
        return spectrogram(sound), self.words[index]


def load(voices: int) -> tuple[Utterances, Utterances]:
    """Training data of so many voices, and test data of others; the latter with noise that is always the same."""
    sound = torch.from_numpy(np.concatenate([speak(voice, seed=0) for voice in range(voices + TEST_VOICES)]))
    words = torch.arange(len(WORDS)).repeat(voices + TEST_VOICES)
    cut = voices * len(WORDS)
    noise = 0.015 * torch.randn(sound[cut:].shape, generator=torch.Generator().manual_seed(1))
    train = Utterances(sound[:cut], words[:cut], disturb=True)
    return train, Utterances(sound[cut:] + noise, words[cut:], disturb=False)


def network(width: int) -> nn.Module:
    """Convolutions over time and frequency, their mean over time, one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, padding=2), nn.GroupNorm(4, width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GroupNorm(4, 2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.GroupNorm(4, 2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, BANDS // 4)), nn.Flatten(), nn.Dropout(0.2), nn.Linear(2 * width * (BANDS // 4), len(WORDS)),
    )  # fmt: skip


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each word that is recognised: the runtime adds them up over all workers."""
    return outputs.argmax(dim=1) == targets


def build(epochs: int = 20, batch_size: int = 64, lr: float = 0.003, width: int = 16, voices: int = 90) -> Task:
    """What to train.

    Args:
        epochs: how often each utterance is heard
        batch_size: utterances per step, over all workers together
        lr: the highest learning rate; it falls to zero along a cosine
        width: channels of the first convolution; divisible by 4
        voices: how many voices to train on, a third each of men, women and children; each says ten words
    """
    train, test = load(voices)
    steps = epochs * -(-len(train) // batch_size)
    return Task(
        model=network(width),
        train_data=train,
        eval_data=test,
        loss=functional.cross_entropy,
        metrics={"accuracy": correct},
        optimizer=partial(torch.optim.AdamW, lr=lr),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        batch_size=batch_size,
        epochs=epochs,
    )
