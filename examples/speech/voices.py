"""SYNTHETIC speech: the vowels of ten English words, "spoken" by voices that no human has. Made here, in seconds, from a formula.

What is real are the numbers it is made from: pitch and the first three resonances (formants) of the vocal tract, as Peterson and Barney
measured them on men, women and children ("Control methods used in a study of the vowels", J. Acoust. Soc. Am. 24, 1952, table II,
averages). The rest is the source-filter model of speech (Fant 1960): a glottal tone with harmonics k·F0, each with the amplitude

    1/k · Π_f |p_f|² / |(j·k·F0 - p_f) (j·k·F0 - p_f*)|      p_f = -B_f/2 + j·F_f, formant F_f with bandwidth B_f

after a breath of noise through the same resonances, the h of h_d words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float32]

RATE = 8000
"""Samples per second: the third formant of a child, 3.7 kHz, is the highest that is heard."""
LENGTH = 3200
"""Samples of a word: 0.4 s."""
WORDS = ("heed", "hid", "head", "had", "hod", "hawed", "hood", "who'd", "hud", "heard")

BANDWIDTHS = np.array([60.0, 100.0, 150.0])
"""Of the formants, in Hz: textbook values for an open glottis."""

# One row per word: pitch, then formants 1 to 3, in Hz.
MEN = (
    (136, 270, 2290, 3010), (135, 390, 1990, 2550), (130, 530, 1840, 2480), (127, 660, 1720, 2410), (124, 730, 1090, 2440),
    (129, 570, 840, 2410), (137, 440, 1020, 2240), (141, 300, 870, 2240), (130, 640, 1190, 2390), (133, 490, 1350, 1690),
)  # fmt: skip
WOMEN = (
    (235, 310, 2790, 3310), (232, 430, 2480, 3070), (223, 610, 2330, 2990), (210, 860, 2050, 2850), (212, 850, 1220, 2810),
    (216, 590, 920, 2710), (232, 470, 1160, 2680), (231, 370, 950, 2670), (221, 760, 1400, 2780), (218, 500, 1640, 1960),
)  # fmt: skip
CHILDREN = (
    (272, 370, 3200, 3730), (269, 530, 2730, 3600), (260, 690, 2610, 3570), (251, 1010, 2320, 3320), (256, 1030, 1370, 3170),
    (263, 680, 1060, 3180), (276, 560, 1410, 3310), (274, 430, 1170, 3260), (261, 850, 1590, 3360), (261, 560, 1820, 2160),
)  # fmt: skip
KINDS = np.array([MEN, WOMEN, CHILDREN], dtype=np.float64)


def speak(voice: int, seed: int) -> Signal:
    """All ten words in one voice, shape (10, LENGTH). Always the same for the same voice and seed."""
    draw = np.random.default_rng((seed, voice))
    table = KINDS[voice % len(KINDS)]
    pitch = table[:, :1] * draw.lognormal(0.0, 0.10)
    tract = draw.lognormal(0.0, 0.04)  # a longer vocal tract: all resonances lower
    said = []
    for word in range(len(WORDS)):
        formants = table[word, 1:] * tract * draw.lognormal(0.0, 0.04, 3)  # nobody says a word twice alike
        said.append(_word(float(pitch[word, 0]) * draw.lognormal(0.0, 0.05), formants, draw))
    return np.stack(said)


def _word(pitch: float, formants: NDArray[np.float64], draw: np.random.Generator) -> Signal:
    """A breath, then the vowel with falling pitch, then silence."""
    begin, end = int(draw.integers(300, 700)), int(draw.integers(2400, 3100))
    breath = np.zeros(LENGTH)
    breath[begin - 300 : begin + 100] = _breath(400, formants, draw)
    time = np.arange(end - begin) / (end - begin)
    glide = pitch * (1.05 - 0.15 * time)
    phase = 2 * np.pi * np.cumsum(glide) / RATE + draw.uniform(0, 2 * np.pi)
    harmonics = np.arange(1, int(0.95 * RATE / 2 / glide[0]) + 1)
    amplitudes = _resonance(harmonics * float(glide.mean()), formants) / harmonics
    loudness = np.minimum(1.0, np.minimum(time, 1.0 - time) * 8) * np.exp(-0.5 * time)
    vowel = np.zeros(LENGTH)
    vowel[begin:end] = loudness * (amplitudes[:, None] * np.sin(harmonics[:, None] * phase)).sum(axis=0)
    signal = vowel / np.abs(vowel).max() + 0.1 * breath
    return signal.astype(np.float32)


def _breath(length: int, formants: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Noise that has passed through the same vocal tract."""
    spectrum = np.fft.rfft(draw.standard_normal(length) * np.hanning(length))
    noise = np.fft.irfft(spectrum * _resonance(np.fft.rfftfreq(length, 1 / RATE), formants), length)
    return noise / np.abs(noise).max()


def _resonance(frequencies: NDArray[np.float64], formants: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each frequency the vocal tract lets through: the product in the formula above."""
    gain = np.ones_like(frequencies)
    for formant, bandwidth in zip(formants, BANDWIDTHS, strict=True):
        pole = complex(-bandwidth / 2, formant)
        gain = gain * np.abs(pole) ** 2 / np.abs((1j * frequencies - pole) * (1j * frequencies - pole.conjugate()))
    return gain
