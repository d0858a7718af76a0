"""Two networks side by side, on small ones made by hand and on the real classifiers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from onnx_udfc.errors import CheckError, ModelError, RequestError
from onnx_udfc.evaluate.comparison import decibels, fidelity
from onnx_udfc.evaluate.movement import MAX_DB
from onnx_udfc.evaluate.validate import Validation, validate
from onnx_udfc.inputs.how_many import MOST_JUDGED, OTHER_IMAGES
from onnx_udfc.inputs.image_files import Preprocessing
from onnx_udfc.inputs.kinds import Scale, made
from onnx_udfc.inputs.network_inputs import expected
from onnx_udfc.inputs.sizes import undescribed
from onnx_udfc.model.network import read
from onnx_udfc.options import Judging, Options
from onnx_udfc.pipeline import compress
from onnx_udfc.runtime.runs import input_specs, split
from onnx_udfc.runtime.sessions import file_bytes, open_session

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,4,4] x) => (float[N,5] y) {
   c = Conv (x, w)
   r = Relu (c)
   y = Flatten (r)
}
"""


def network(weight: NDArray[np.float32], text: str = TEXT) -> onnx.ModelProto:
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


@pytest.fixture
def weight() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)


def quick(original: Any, compressed: Any, **given: Any) -> Validation:
    return validate(original, compressed, Judging(seconds=0, memory=False, threads=1, **given))


def test_made_up_inputs_are_those_of_a_compression(weight: NDArray[np.float32]) -> None:
    """Pixels, where the biases of the first convolution drown all else: what is wrong with larger ones is seen."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
        net (float[N,3,32,32] x) => (float[N,5,29,29] y) { CLIP r = Relu (c) y = Neg (r) }"""
    values = (("b", [300.0] * 5), ("low", -20), ("high", 20))
    held = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in values]
    bodies = ("c = Conv (x, w, b)", "p = Clip(x, low, high) c = Conv (p, w, b)")
    whole, cut = (network(weight, text.replace("CLIP", body)) for body in bodies)
    for model in (whole, cut):
        model.graph.initializer.extend(held)
    small, large = quick(whole, cut, input_range=(0, 1)).outputs[0], quick(whole, cut).outputs[0]
    assert small.sqnr_db is not None
    assert large.sqnr_db is not None
    assert large.sqnr_db < 10 < 60 < small.sqnr_db


def test_the_word_is_that_of_the_compression() -> None:
    """Nothing is judged on inputs that the compression has fitted, which it does better on than on others."""
    model = Path(__file__).resolve().parents[2] / "models" / "digits_resnet_bn.onnx"
    result = compress(model, Options(prune=0.7, bits=3, threads=1))
    found = quick(model, result.model)
    assert (found.verdict, found.predicted_loss) == (result.report.verdict, result.report.predicted_loss)
    assert result.report.fidelity is not None
    assert found.agreement == result.report.fidelity.agreement


def test_the_figures_equal_a_naive_computation(weight: NDArray[np.float32]) -> None:
    other = weight + np.float32(0.01)
    found = quick(network(weight), network(other), seed=3, input_range=(-2, 2))
    wanted, scales, _, _ = expected(read(network(weight)), Options(input_range=(-2, 2)))
    assert scales == {"x": Scale(Preprocessing(range=(-2, 2)))}
    x = made(wanted, found.count, 3 + OTHER_IMAGES, scales)["x"].astype(np.float64)
    y, z = (np.maximum(np.einsum("nchw,ochw->no", x, w.astype(np.float64)), 0) for w in (weight, other))
    output = found.outputs[0]
    moved, followed = y - y.mean(0), z - z.mean(0)
    ratios = np.sort((moved**2).sum(0) / ((y - z) ** 2).sum(0))  # of the five classes
    assert output.sqnr_db == pytest.approx(10 * math.log10(ratios[2]), rel=1e-4)
    assert output.parts[0].worst_db == pytest.approx(10 * math.log10(ratios[0]), rel=1e-4)
    cosines = (moved * followed).sum(0) / np.sqrt((moved**2).sum(0) * (followed**2).sum(0))
    assert output.cosine == pytest.approx(np.median(cosines), rel=1e-6)
    assert output.max_difference == pytest.approx(np.abs(y - z).max(), rel=1e-4)
    assert output.agreement == (y.argmax(1) == z.argmax(1)).mean()
    assert found.count == MOST_JUDGED
    assert found.bytes.original == network(weight).ByteSize()


def test_a_network_with_itself(weight: NDArray[np.float32]) -> None:
    found = quick(network(weight), network(weight))
    assert found.outputs[0].sqnr_db == MAX_DB
    assert found.outputs[0].cosine == 1
    assert found.outputs[0].agreement == 1
    assert found.measured("sqnr") == MAX_DB
    assert found.measured("latency") is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_decibels_are_finite() -> None:
    assert decibels(1.0, 0.0) == MAX_DB
    assert decibels(0.0, 0.0) == MAX_DB
    assert decibels(0.0, 1.0) == -MAX_DB
    assert decibels(100.0, 1.0) == pytest.approx(20)


def test_not_finite_is_refused(weight: NDArray[np.float32]) -> None:
    broken = weight.copy()
    broken[0, 0, 0, 0] = np.inf
    with pytest.raises(CheckError, match="not finite"):
        quick(network(weight), network(broken))


def test_other_outputs_are_refused(weight: NDArray[np.float32]) -> None:
    renamed = TEXT.replace("[N,5] y", "[N,5] z").replace("y = Flatten", "z = Flatten")
    with pytest.raises(CheckError, match="outputs differ"):
        quick(network(weight), network(weight, renamed))


def test_a_missing_file_and_rubbish_are_one_line(tmp_path: Path, weight: NDArray[np.float32]) -> None:
    (tmp_path / "rubbish.onnx").write_bytes(b"not a model")
    for path in (tmp_path / "none.onnx", tmp_path / "rubbish.onnx"):
        with pytest.raises(ModelError) as refused:
            quick(path, network(weight))
        assert "\n" not in str(refused.value)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
def test_a_provider_that_is_not_here_is_refused(weight: NDArray[np.float32]) -> None:
    with pytest.raises(RequestError, match="onnxruntime-gpu"):
        quick(network(weight), network(weight), provider="cuda")


def test_fidelity_is_the_worst_output() -> None:
    text = TEXT.replace("(float[N,5] y)", "(float[N,5] y, float[N,5,1,1] r)")
    weights = [np.random.default_rng(0).standard_normal((5, 3, 4, 4)).astype(np.float32)] * 2
    weights[1] = weights[0] * np.float32(1.01)
    sessions = [open_session(network(w, text)) for w in weights]
    specs = input_specs(sessions[0])
    feeds = list(split(specs, made(undescribed(specs), 8, 0, {}), batch=3))
    found = fidelity(sessions[0], sessions[1], feeds)
    assert found.count == 8
    y = np.concatenate([sessions[0].run(["y"], feed)[0] for feed in feeds]).astype(np.float64)
    ratios = ((y - y.mean(0)) ** 2).sum(0) / ((0.01 * y) ** 2).sum(0)  # everything is 1 % larger, the mean too
    assert found.sqnr_db == pytest.approx(10 * math.log10(np.median(ratios)), abs=1e-3)
    assert found.agreement == 1
    assert min(o.sqnr_db or 0 for o in found.outputs) == found.sqnr_db


def test_a_fixed_batch_is_filled_up_and_the_filling_not_counted(weight: NDArray[np.float32], tmp_path: Path) -> None:
    images = tmp_path / "x.npz"
    np.savez(images, x=np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8))
    fixed = network(weight, TEXT.replace("[N,", "[2,"))
    other = network(weight + np.float32(0.02), TEXT.replace("[N,", "[2,"))
    free = quick(network(weight), network(weight + np.float32(0.02)), images=images)
    held = quick(fixed, other, images=images)
    assert held.count == free.count == 5
    assert held.outputs[0].agreement == free.outputs[0].agreement
    assert held.outputs[0].sqnr_db == pytest.approx(free.outputs[0].sqnr_db, rel=1e-5)


def test_labels_need_an_output_of_classes(weight: NDArray[np.float32], tmp_path: Path) -> None:
    text = (
        TEXT.replace("float[N,5] y", "float[N,5,1,1] r")
        .replace("   y = Flatten (r)\n", "")
        .replace("Relu (c)", "Tanh (c)")
    )
    boxes = text.replace("float[N,5,1,1] r", "float[N,1,5] s").replace(
        "}", "   k = Constant<value_ints=[0,1,5]>()\n s = Reshape(r, k)\n}"
    )
    np.savez(tmp_path / "xy.npz", x=np.zeros((2, 4, 4, 3), np.uint8), y=np.array([0, 1]))
    with pytest.raises(RequestError, match="no output"):
        quick(network(weight, boxes), network(weight, boxes), images=tmp_path / "xy.npz")


@pytest.mark.parametrize("other", ["[N,3,4,4] z", "[N,3,5,5] x", "[N,3,4,4] x, float[1] more"])
def test_inputs_that_differ_are_named(weight: NDArray[np.float32], other: str) -> None:
    text = TEXT.replace("[N,3,4,4] x", other).replace("Conv (x", "Conv (z" if "z" in other else "Conv (x")
    with pytest.raises(CheckError, match=r"the inputs differ: x float32 \?x3x4x4 against"):
        quick(network(weight), network(weight, text))
    assert quick(network(weight), network(weight, TEXT.replace("[N,3,4,4] x", "[M,3,A,B] x"))).verdict == "good"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_counts_the_weights(tmp_path: Path) -> None:
    from onnx_udfc.evaluate.peak_memory import peak_memory

    sizes = []
    for channels in (4, 200_000):
        text = TEXT.replace("N,5]", "N,M]")
        onnx.save(network(np.zeros((channels, 3, 4, 4), np.float32), text), tmp_path / "m.onnx")
        sizes.append(peak_memory(tmp_path / "m.onnx", {"x": np.zeros((1, 3, 4, 4), np.float32)}))
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert sizes[1] - sizes[0] > 200_000 * 3 * 4 * 4 * 4
    assert peak_memory(tmp_path / "none.onnx", {}) is None


def test_external_data_counts_as_bytes(tmp_path: Path, weight: NDArray[np.float32]) -> None:
    onnx.save(network(weight), tmp_path / "a.onnx", save_as_external_data=True, location="a.bin", size_threshold=0)
    assert file_bytes(tmp_path / "a.onnx") > weight.nbytes + 100
    assert quick(tmp_path / "a.onnx", network(weight)).outputs[0].sqnr_db == MAX_DB


def test_a_detector_with_itself(assets: Path) -> None:
    path = assets / "zoo" / "ultraface_slim_320.onnx"
    found = quick(path, path, task="detection", limit=16, input_range=(-1, 1))
    assert found.matched == 1


def classifiers() -> list[str]:
    return [
        *(f"models/resnet{n}_cifar10_{k}.onnx" for n in (20, 56) for k in ("bn", "folded")),
        *(f"models/vgg16half_cifar10_{k}.onnx" for k in ("bn", "folded")),
    ]


@pytest.mark.parametrize("name", classifiers())
def test_accuracy_is_the_manifest_s(assets: Path, name: str) -> None:
    manifest = json.loads((assets / "manifest.json").read_text(encoding="utf-8"))
    entry = next(e for e in manifest["models"] if e["file"] == name)
    how = {"input_mean": entry["mean"], "input_std": entry["std"], "input_range": (0, 255 * entry["scale"])}
    images = assets / "images" / "cifar10_test_dev.npz"
    found = quick(assets / name, assets / name, images=images, input_colour=entry["color"].lower(), **how)
    assert found.accuracy is not None
    assert 100 * found.accuracy.original == pytest.approx(entry["top1_dev"], abs=1e-9)
    assert found.accuracy.compressed == found.accuracy.original


def test_the_shipped_network_is_as_good_as_its_manifest_says(models: Path) -> None:
    manifest = json.loads((models / "manifest.json").read_text(encoding="utf-8"))
    entry = next(e for e in manifest["models"] if e["file"] == "digits_resnet_bn.onnx")
    how = {"input_mean": entry["mean"], "input_std": entry["std"], "input_range": (0, 255 * entry["scale"])}
    path = models / entry["file"]
    found = quick(path, models / "digits_resnet_folded.onnx", images=models / "digits_test.npz", **how)
    assert found.accuracy is not None
    assert 100 * found.accuracy.original == pytest.approx(entry["top1_dev"], abs=1e-9)


def test_a_validation_is_a_page_with_the_answers_that_changed(weight: NDArray[np.float32], tmp_path: Path) -> None:
    from onnx_udfc.judging import judged

    y = np.arange(40) % 5
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8), y=y)
    for name, w in (("a", weight), ("b", weight + np.float32(0.8) * weight[::-1])):
        onnx.save(network(w), tmp_path / f"{name}.onnx")
    asked = Judging(
        images=str(tmp_path / "data.npz"), seconds=0, memory=False, threads=1,
        report=(str(tmp_path / "v.html"), str(tmp_path / "v.json")),
    )  # fmt: skip
    found = judged(str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), asked)
    assert found.accuracy is not None
    assert found.changes == round(40 * (1 - (found.agreement or 0)))
    assert found.changes > 0
    assert all(c.original != c.compressed and c.label == int(c.name) % 5 for c in found.changed)
    page = (tmp_path / "v.html").read_text()
    assert "Changed answers" in page
    assert f"Verdict: {found.verdict}" in page
    assert json.loads((tmp_path / "v.json").read_text())["changes"] == found.changes


def test_compress_judges_on_the_inputs_that_are_kept_for_it(weight: NDArray[np.float32], tmp_path: Path) -> None:
    from onnx_udfc.options import Options, parse_requirement

    model = network(weight)
    y = open_session(model).run(None, {"x": (x := np.random.default_rng(1).random((50, 3, 4, 4), np.float32))})[0]
    np.savez(tmp_path / "data.npz", x=x, y=y.argmax(1))
    gates = tuple(parse_requirement(g) for g in ("accuracy>=0.5", "verdict=good"))
    data = str(tmp_path / "data.npz")
    report = compress(model, Options(bits=8, method="udfc", validate=data, require=gates, threads=1)).report
    assert report.fidelity.inputs == "validation"
    assert report.fidelity.count == 50
    assert report.accuracy is not None
    assert report.accuracy.original == 1
    assert report.accuracy.compressed == report.fidelity.agreement
    assert report.predicted_loss == pytest.approx(1 - report.accuracy.compressed)


def test_compress_judges_in_the_colours_that_are_told(weight: NDArray[np.float32], tmp_path: Path) -> None:
    from onnx_udfc.options import Options
    from onnx_udfc.pipeline import compress

    model = network(weight)
    x = np.random.default_rng(1).integers(0, 256, (50, 4, 4, 3), np.uint8)
    scaled = x[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    answers = open_session(model).run(None, {"x": scaled})[0].argmax(1)
    np.savez(tmp_path / "data.npz", images=x, labels=answers)
    data = str(tmp_path / "data.npz")
    report = compress(model, Options(bits=8, method="udfc", validate=data, input_colour="bgr", threads=1)).report
    assert report.accuracy is not None
    assert report.accuracy.original == 1
