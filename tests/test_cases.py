"""Small graphs that went wrong once: each is run as asked, or ends in one true line before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_udfc import Options, compress
from onnx_udfc.errors import UdfcError
from onnx_udfc.evaluate.inspection import inspect_model
from onnx_udfc.runtime.sessions import open_session

FOLDER = Path(__file__).parent / "cases"
REQUESTS: dict[str, dict[str, object]] = {
    "--method none": {"method": "none"},
    "--bits 8": {"bits": 8},
    "--bits 8 --activations 8": {"bits": 8, "activations": 8, "input_mean": (0.5,), "input_std": (0.25,)},
    "--prune 0.2": {"prune": 0.2},
    "--prune 0.2 --method none": {"prune": 0.2, "method": "none"},
}


@dataclass(frozen=True)
class Case:
    """What a file must do.

    Attributes:
        weights: least SQNR in dB of `--bits 8`, on noise: what was measured less 3.
        integers: of `--bits 8 --activations 8`, with ranges of made-up pictures of about the noise's deviation.
        refused: a part of the line that ends everything, where nothing can be done.
        groups: of channels that `inspect` must find.
        sizes: of inputs whose sizes the file leaves open.
        unloadable: whether onnxruntime refuses the file as it is.
        served: requests that do without made-up inputs, if the others are refused.
    """

    weights: float = math.nan
    integers: float = math.nan
    refused: str = ""
    groups: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unloadable: bool = False
    served: tuple[str, ...] = ()


NO_OUTPUTS = "the model has no outputs, so nothing that it computes is used"
CASES = {
    "bn_gamma0_first_9of16": Case(46, 38, groups=("conv1",)),
    "centercroppad_axes": Case(22, 18, groups=("a_pre_node",)),
    "damaged_104": Case(refused=NO_OUTPUTS),
    "damaged_164": Case(weights=-math.inf, integers=-math.inf),
    "damaged_18": Case(refused="node 'bn0' (BatchNormalization) reads a tensor of shape [1, 3, 8, 8]"),
    "damaged_284": Case(refused="node 'conv0' (Conv) has a weight with 1 axes"),
    "damaged_29": Case(unloadable=True),
    "damaged_291": Case(refused=NO_OUTPUTS),
    "damaged_359": Case(refused=NO_OUTPUTS),
    "damaged_428": Case(refused="node 'bn1' (BatchNormalization) has parameters of shapes [12, 12, 3, 3], [12]"),
    "damaged_461": Case(refused="node 'n3_Conv' (Conv) reads a tensor of shape [1, 4, 8, 8]"),
    "dropout_mask": Case(37, 10, groups=("a_pre_node", "b_pre_node")),
    "input_without_shape": Case(
        refused="input 'x' has no shape in the file, not even a number of axes",
        served=("inspect", "--method none", "--prune 0.2 --method none", "--prune 0.2"),  # nothing can go
        sizes={"x": (2, 3, 16, 16)},
    ),
    "min_ax1_named": Case(52, 28),
    "min_ax1_unnamed": Case(52, 28),
    "min_fp16store": Case(37, 16),
    "min_nhwc_dyn": Case(36, 15),
    "min_qkv": Case(36, 13),
    "min_qkvg": Case(36, 13),
    "min_qkvs": Case(36, 13),
    "min_rs0": Case(41, 17, groups=("conv0",)),
    "min_rs_id": Case(41, 17, groups=("conv0",)),
    "min_rs_sig": Case(60, 35, groups=("conv0",)),
    "min_softmax12": Case(52, 28),
    "nan_fill": Case(37, 10, groups=("a_node", "b_pre_node")),
    "nan_unused": Case(37, 10, groups=("a_pre_node",)),
    "nms_output": Case(weights=-math.inf, integers=-math.inf),
    "nonzero_output": Case(weights=-math.inf, integers=-math.inf),
    "pad_axes": Case(19, 23, groups=("a_pre_node",)),
    "resize_axes_scales": Case(21, 23, groups=("a_pre_node",)),
    "resize_tf_half_pixel": Case(46, 10, groups=("a_pre_node",)),
    "scalar_input": Case(42, 7),
    "sequence_ops": Case(21, 20, groups=("c_pre_node",)),
    "slice_empty": Case(37, 10, groups=("a_pre_node", "b_pre_node")),
    "slice_reverse": Case(42, 9, groups=("a_pre_node", "b_pre_node")),
    "slice_step2": Case(18, 24, groups=("a_pre_node", "a_pre_node#2", "b_pre_node")),
    "sparse_w1": Case(71, 44, groups=("conv2",)),
    "sparse_weight": Case(43, 39, groups=("b_pre_node",)),  # 44.1 to 47.3 dB by BLAS's kernels for a processor
    "two_stage_detector": Case(weights=-math.inf, integers=-math.inf),
}


def test_every_file_has_a_case() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_case_is_served_or_refused(name: str, request_: str) -> None:
    case, path = CASES[name], FOLDER / f"{name}.onnx"
    options = Options(threads=1, images=8, force=True, **REQUESTS[request_])  # type: ignore[arg-type]
    if case.refused and request_ not in case.served:
        with pytest.raises(UdfcError, match=r"^[^\n]*$") as error:
            compress(path, options)
        assert case.refused in str(error.value)
        assert error.value.exit_code == 1
        return
    result = compress(path, options)
    if _valid(path):
        onnx.checker.check_model(result.model)
    open_session(result.model, threads=1)
    least = {"--method none": 60.0, "--bits 8": case.weights, "--bits 8 --activations 8": case.integers}
    if request_ in least and not case.unloadable:
        assert decibels(path, result.model, case.sizes) > least[request_]


def _valid(path: Path) -> bool:
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError:
        return False
    return True


def decibels(path: Path, model: onnx.ModelProto, sizes: dict[str, tuple[int, ...]]) -> float:
    """The worst SQNR of an output on noise; outputs whose size differs are passed over."""
    sessions = [open_session(source, threads=1, optimize=False) for source in (path, model)]
    rng = np.random.default_rng(0)
    feeds = {}
    for given in sessions[0].get_inputs():
        shape = sizes.get(given.name) or tuple(
            d if isinstance(d, int) else 2 if i == 0 else 16 for i, d in enumerate(given.shape)
        )
        feeds[given.name] = np.asarray(rng.standard_normal(shape), np.float32 if "float" in given.type else np.int64)
    found = [math.inf]
    for y, z in zip(*(session.run(None, feeds) for session in sessions), strict=True):
        if y.shape == z.shape and y.dtype.kind == "f":
            signal, noise = np.square(y, dtype=np.float64).sum(), np.square(y - z, dtype=np.float64).sum()
            found.append(10 * math.log10(max(signal, 1e-30) / noise) if noise else math.inf)
    return min(found)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.groups])
def test_inspect_finds_what_can_be_pruned(name: str) -> None:
    found = {group.name for group in inspect_model(FOLDER / f"{name}.onnx").groups}
    assert set(CASES[name].groups) <= found


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.refused and "inspect" not in case.served]
)
def test_inspect_refuses_what_compress_refuses(name: str) -> None:
    with pytest.raises(UdfcError) as error:
        inspect_model(FOLDER / f"{name}.onnx")
    assert CASES[name].refused in str(error.value)
