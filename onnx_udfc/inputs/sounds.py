"""Sounds by formula as made-up inputs: notes and chords, speech-like syllables, sweeps, noise; their spectrograms.

All are (count, length) of −1..1 at RATE samples a second, of different loudness, most over a floor of faint noise.
Inputs shorter than a syllable are pieces of longer sounds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.numerics.images import Array

Double = NDArray[np.float64]
Rng = np.random.Generator
Draw = Callable[[int, int, Rng], Array]

RATE = 16_000
LEAST = 16_000  # samples that are drawn at once; shorter inputs are cut out of them
_HARMONICS, _VOICED = 12, 36  # overtones of a note, and of a voice
# Middle frequencies (Hz) of the two lowest resonances of some vowels: a, e, i, o, u, and the neutral one.
_VOWELS = np.array([[750, 1200], [500, 1900], [300, 2300], [450, 850], [320, 750], [500, 1500]], float)


def spectrograms(count: int, channels: int, size: tuple[int, int], rng: Rng) -> Array:
    """Logarithmic spectrograms (count, channels, bands, times) of sounds of all kinds, mean 0 and deviation 1.

    Time runs along the longer axis, bands are spaced as hearing spaces them; all channels are alike.
    """
    bands, times = min(size), max(size)
    hop, window = RATE // 100, RATE // 40
    drawn = [k for k, n in enumerate(np.array_split(np.arange(count), len(SIGNALS))) for _ in n]
    kinds = list(SIGNALS.values())
    sounds = np.concatenate([kinds[k](1, hop * times + window, rng) for k in drawn])
    starts = np.arange(times) * hop
    frames = sounds[:, starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.square(np.abs(np.fft.rfft(frames, axis=-1))) @ _bands(bands, window // 2 + 1).T
    z = np.log(power + 1e-6)
    z = (z - z.mean((1, 2), keepdims=True)) / np.maximum(z.std((1, 2), keepdims=True), 1e-6)
    turned = z if size[0] > size[1] else z.transpose(0, 2, 1)
    return np.repeat(turned[:, None], channels, axis=1).astype(np.float32)


def _bands(count: int, lines: int) -> Double:
    """Triangles (count, lines) over the spectrum, evenly spaced in mel."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), count + 2)
    edges = 700 * (10 ** (mel / 2595) - 1) / (RATE / 2) * (lines - 1)
    at = np.arange(lines)
    rising = (at - edges[:-2, None]) / np.maximum(np.diff(edges)[:-1, None], 1e-9)
    falling = (edges[2:, None] - at) / np.maximum(np.diff(edges)[1:, None], 1e-9)
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    nearest = at == np.rint(edges[1:-1, None])  # a narrow band holds at least its nearest line
    return np.asarray(np.maximum(triangles, np.where(triangles.any(1, keepdims=True), 0, nearest)), np.float64)


def _sounds(draw: Callable[[int, Rng], Double]) -> Draw:
    """What draws one sound (length,), for many (count, length): loud and faint ones, over noise."""

    @wraps(draw)
    def drawn(count: int, length: int, rng: Rng) -> Array:
        long = max(length, LEAST)
        pieces = long // length  # of one drawn sound
        parts = []
        for _ in range(-(-count // pieces)):
            sound = draw(long, rng)
            sound /= max(float(np.abs(sound).max()), 1e-9)
            sound += rng.standard_normal(long) * 10 ** rng.uniform(-4, -1.5)
            sound *= 10 ** rng.uniform(-1.3, 0)
            starts = rng.permutation(pieces) * length
            parts.append(sound[starts[:, None] + np.arange(length)])
        return np.asarray(np.clip(np.concatenate(parts)[:count], -1, 1), np.float32)

    return drawn


@_sounds
def notes(length: int, rng: Rng) -> Double:
    """Notes one after the other, some of them chords: harmonics under a quick rise and a slow fall."""
    seconds = length / RATE
    count = max(1, int(rng.poisson(3 * seconds)))
    sound = np.zeros(length)
    for _ in range(count):
        start = int(rng.integers(length)) if rng.random() < 0.8 else 0
        t = np.arange(length - start) / RATE
        base = rng.uniform(36, 84)
        chord = np.array([0, *rng.choice([3, 4, 7, 12], rng.integers(0, 4), replace=False)])
        pitch = 440 * 2 ** ((base + chord[rng.random(len(chord)) < 0.9] - 69) / 12)
        envelope = np.minimum(1, t / rng.uniform(0.002, 0.08)) * np.exp(-t / rng.uniform(0.15, 1.5))
        heard = np.count_nonzero(t < rng.uniform(0.1, 2.0))
        wave = _harmonics(t[:heard], pitch, rng.uniform(0.7, 2.5), rng)
        sound[start : start + heard] += envelope[:heard] * wave
    return sound


def _harmonics(t: Double, pitch: Double, fall: float, rng: Rng) -> Double:
    """A sum (t,) of tones and their overtones, the k-th of amplitude about k^-fall; none above half the rate."""
    number = np.arange(1, _HARMONICS + 1)
    frequency = np.outer(pitch, number).ravel()
    amplitude = np.tile(number**-fall, len(pitch)) * rng.uniform(0.3, 1, frequency.size) * (frequency < RATE / 2)
    phase = rng.uniform(0, 2 * np.pi, frequency.size)
    sound = np.zeros(len(t))
    # Overtones are powers of their tone z = exp(2πi f t): Σ_k a_k zᵏ by Horner's rule is one sine in place of many.
    for base, factors in zip(pitch, (amplitude * np.exp(1j * phase)).reshape(-1, _HARMONICS), strict=True):
        tone, total = np.exp(2j * np.pi * base * t), np.zeros(len(t), complex)
        for factor in np.trim_zeros(factors, "b")[::-1]:
            total += factor
            total *= tone
        sound += total.imag
    return sound


@_sounds
def speech(length: int, rng: Rng) -> Double:
    """Syllables of a buzzing voice through two resonances, hisses between some of them, and pauses."""
    sound, at, voice = np.zeros(length), 0, rng.uniform(85, 240)
    while at < length:
        span = int(RATE * rng.uniform(0.08, 0.3))
        if rng.random() < 0.2:  # a pause
            at += 2 * span
            continue
        part = sound[at : at + span]
        part += _syllable(span, voice, rng)[: len(part)]
        at += span
    return sound


def _syllable(span: int, voice: float, rng: Rng) -> Double:
    """A hiss or not, then a vowel that moves to another one."""
    t = np.linspace(0, 1, span)
    pitch = voice * (1 + rng.uniform(-0.15, 0.15) * t + rng.normal(0, 0.05))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    number = np.arange(1, _VOICED + 1)[:, None]
    first, last = _VOWELS[rng.integers(len(_VOWELS), size=2)] * rng.uniform(0.9, 1.15)
    middle = first[:, None, None] + (last - first)[:, None, None] * t
    width = np.array([90.0, 140.0])[:, None, None]
    response = (1 / (1 + np.square((number * pitch - middle) / width))).sum(0) + 0.01
    wave = (response / number * np.sin(number * phase) * (number * pitch < RATE / 2)).sum(0)
    envelope = np.sin(np.pi * np.minimum(1, t * 1.02)) ** rng.uniform(0.4, 1.0)
    hiss = rng.standard_normal(span)
    hiss = np.diff(hiss, prepend=0.0) * (t < rng.uniform(0.1, 0.4)) if rng.random() < 0.4 else hiss * 0
    return np.asarray(envelope * wave + rng.uniform(0.02, 0.2) * hiss, np.float64)


@_sounds
def sweeps(length: int, rng: Rng) -> Double:
    """Tones that rise or fall over the whole sound, and clicks."""
    low, high = np.exp(rng.uniform(np.log(60), np.log(RATE / 2.5), 2))
    frequency = low * (high / low) ** np.linspace(0, 1, length)
    sound = np.sin(2 * np.pi * np.cumsum(frequency) / RATE)
    clicks = np.zeros(length)
    clicks[rng.integers(length, size=rng.integers(0, 6))] = 1
    decay = np.exp(-np.arange(400) / rng.uniform(5, 80)) * rng.standard_normal(400)
    return sound * rng.uniform(0.1, 1) + np.convolve(clicks, decay)[:length]


@_sounds
def noises(length: int, rng: Rng) -> Double:
    """Noise whose amplitude falls with a power of the frequency, in bursts or steady."""
    frequency = np.fft.rfftfreq(length)
    frequency[0] = np.inf
    spectrum = np.fft.rfft(rng.standard_normal(length)) * frequency ** -rng.uniform(0, 1.5)
    sound = np.fft.irfft(spectrum, length)
    if rng.random() < 0.5:
        return sound
    at = np.linspace(0, rng.uniform(1, 6), length) + rng.random()
    return np.asarray(sound * np.clip(np.sin(np.pi * at), 0, None) ** 2, np.float64)


SIGNALS: dict[str, Draw] = {"notes": notes, "speech": speech, "sweeps": sweeps, "noises": noises}
