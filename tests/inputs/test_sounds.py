"""Sounds by formula, and their spectrograms."""

import numpy as np
import pytest

from onnx_udfc.inputs.sounds import _HARMONICS, RATE, SIGNALS, _harmonics, notes, spectrograms, speech


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("length", [576, 16_000, 20_000])
def test_sounds_are_seeded_within_their_range_and_differ(name: str, length: int) -> None:
    first, again = (SIGNALS[name](5, length, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (5, length)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first).max() <= 1
    assert (first.std(1) > 1e-5).all()
    assert np.triu(np.abs(np.corrcoef(first)), 1).max() < 0.95


def test_notes_are_harmonic_and_speech_is_low_and_pauses() -> None:
    spectrum = np.abs(np.fft.rfft(notes(12, RATE, np.random.default_rng(0)), axis=1))
    peaks = np.sort(spectrum, axis=1)[:, -80:].sum(1) / spectrum.sum(1)
    assert np.median(peaks) > 0.15  # noise has 0.02
    voice = speech(12, RATE, np.random.default_rng(0))
    power = np.square(np.abs(np.fft.rfft(voice, axis=1))).mean(0)
    assert power[:4000].sum() > 0.8 * power.sum()
    loudness = voice[:, : RATE // 800 * 800].reshape(12, -1, 800).std(2)
    assert (loudness.min(1) < 0.1 * loudness.max(1)).sum() >= 9


def test_a_tone_lights_the_band_of_its_pitch() -> None:
    z = spectrograms(8, 2, (64, 100), np.random.default_rng(1))
    assert z.shape == (8, 2, 64, 100)
    np.testing.assert_array_equal(z[:, 0], z[:, 1])
    np.testing.assert_allclose(z.mean((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std((1, 2, 3)), 1, rtol=1e-4)
    assert spectrograms(2, 1, (100, 40), np.random.default_rng(1)).shape == (2, 1, 100, 40)


def test_overtones_are_the_sum_of_their_sines() -> None:
    t, pitch = np.arange(4000) / RATE, np.array([110.0, 523.25])
    found = _harmonics(t, pitch, 1.5, np.random.default_rng(0))
    rng, number = np.random.default_rng(0), np.arange(1, _HARMONICS + 1)
    strength, phase = rng.uniform(0.3, 1, 2 * _HARMONICS), rng.uniform(0, 2 * np.pi, 2 * _HARMONICS)
    naive = np.zeros(len(t))
    for i, (base, k) in enumerate((base, k) for base in pitch for k in number):
        if base * k < RATE / 2:
            naive += k**-1.5 * strength[i] * np.sin(2 * np.pi * base * k * t + phase[i])
    np.testing.assert_allclose(found, naive, rtol=0, atol=1e-9)
    assert not _harmonics(t, np.zeros(0), 1.5, np.random.default_rng(0)).any()  # a chord may lose all of its tones
