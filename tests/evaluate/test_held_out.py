"""With real inputs nothing is judged on what it was fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_udfc import compress
from onnx_udfc.evaluate.movement import MAX_DB
from onnx_udfc.evaluate.report import Fidelity
from onnx_udfc.evaluate.wording import decibel, headline
from onnx_udfc.options import Options
from onnx_udfc.runtime.sessions import open_session

ROOT = Path(__file__).parents[2]
MODEL, DIGITS = ROOT / "models/digits_resnet_folded.onnx", ROOT / "models/digits_test.npz"


@pytest.fixture
def pixels() -> np.ndarray:
    with np.load(DIGITS) as stored:
        return np.asarray(stored["x"])


def agreement(first: object, second: object, pixels: np.ndarray) -> float:
    x = ((pixels / np.float32(255) - np.float32(0.305)) / np.float32(0.376)).astype(np.float32).transpose(0, 3, 1, 2)
    names = [open_session(m) for m in (first, second)]  # type: ignore[arg-type]
    a, b = (s.run(None, {s.get_inputs()[0].name: x})[0].argmax(1) for s in names)
    return float((a == b).mean())


@pytest.mark.parametrize("start", [0, 60, 240])
def test_what_is_reported_with_a_few_real_inputs_is_near_what_others_show(
    tmp_path: Path, pixels: np.ndarray, start: int
) -> None:
    few = slice(start, start + 24)
    np.savez(tmp_path / "few.npz", x=pixels[few])
    result = compress(MODEL, prune=0.6, calibrate=tmp_path / "few.npz", threads=1, input_mean=0.305, input_std=0.376)
    found = result.report.fidelity
    assert (found.inputs, found.held_out, found.count) == ("calibration", 6, 6)
    assert found.agreement is not None
    real = agreement(MODEL, result.model, np.delete(pixels, np.arange(few.start, few.stop), axis=0))
    assert abs(found.agreement - real) < 0.08
    assert real > 0.95  # fitted to the 18 alone, without variants of them, it is 0.69 to 0.9


def test_an_image_that_is_held_out_changes_the_check_and_not_the_network(tmp_path: Path, pixels: np.ndarray) -> None:
    from onnx_udfc.inputs.network_inputs import hold_out

    _, held = hold_out(16, seed=0)
    models, figures = [], []
    for noise in (False, True):
        changed = pixels[:16].copy()
        if noise:
            changed[held] = 255 - changed[held]
        np.savez(tmp_path / "x.npz", x=changed)
        result = compress(
            MODEL, bits=3, activations=8, calibrate=tmp_path / "x.npz", threads=1, input_mean=0.305, input_std=0.376
        )
        models.append([t.raw_data for t in result.model.graph.initializer])
        figures.append(result.report.fidelity.sqnr_db)
    assert models[0] == models[1]
    assert figures[0] != figures[1]


def test_the_number_of_real_inputs_that_is_asked_for_does_not_mix_the_two(tmp_path: Path, pixels: np.ndarray) -> None:
    from onnx_udfc.evaluate.final_check import _other_inputs
    from onnx_udfc.inputs.network_inputs import make_inputs
    from onnx_udfc.original import read_original

    np.savez(tmp_path / "x.npz", x=pixels[:100])
    options = Options(calibrate=tmp_path / "x.npz", images=30, input_mean=0.305, input_std=0.376)
    network = read_original(MODEL, options).network
    fitted, judged = make_inputs(network, options), _other_inputs(network, options)
    rows = [{row.tobytes() for row in next(iter(made.values.values()))} for made in (fitted, judged)]
    assert len(rows[0]) == 30
    assert len(rows[1]) == 10
    assert not rows[0] & rows[1]


def test_the_headline_says_which_inputs_were_looked_at() -> None:
    for inputs, held, words in (
        ("calibration", 6, "on 6 real inputs that were held out"),
        ("calibration", 0, "the same that were fitted"),
        ("synthetic", None, "on 6 made-up inputs"),
        ("validation", None, "on 6 real inputs that nothing was fitted on"),
    ):
        assert words in headline(Fidelity(inputs, 30.0, 0.9, 0.9, 6, held_out=held))  # type: ignore[arg-type]


def test_nothing_is_said_in_decibels_of_what_is_the_same() -> None:
    said = headline(Fidelity("synthetic", MAX_DB, 1.0, 1.0, 6))
    assert "identical outputs" in said
    assert "200" not in said
    assert decibel(MAX_DB) == "identical"
    assert "SQNR 30.0 dB" in headline(Fidelity("synthetic", 30.0, 0.9, 0.9, 6))
