"""Options: what is refused, with what words; gates and budgets; TOML."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import numpy as np
import pytest

from onnx_udfc.cli.options import as_toml
from onnx_udfc.errors import GateError, RequestError
from onnx_udfc.options import (
    LINE,
    PYTHON,
    VALIDATE_REQUIREMENTS,
    Budget,
    CombinationError,
    Judging,
    OptionError,
    Options,
    Sweeping,
    check_requirements,
    options_from,
    parse_budget,
    parse_requirement,
    words_of,
)
from onnx_udfc.sweep_grid import Grid

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prune": 1.0}, "prune="),
    ({"prune": -0.1}, "prune="),
    ({"prune_layer": {"conv1": 1.0}}, "prune_layer='conv1=1.0'"),
    ({"prune_layer": {"conv1": "half"}}, "prune_layer='conv1=half'"),
    ({"prune_layer": {"conv1": 0.5}, "budget": {"macs": "0.5"}}, "budget="),
    ({"prune_layer": {"conv1": 0.5}, "allocate": "global"}, "allocate="),
    ({"prune": float("nan")}, "prune="),
    ({"bits": 9}, "bits="),
    ({"bits": 1}, "bits="),
    ({"bits": "auto"}, "budget="),
    ({"activations": 4, "bits": 4}, "activations="),
    ({"activations": 8}, "bits=8"),
    ({"activations": 8, "bits": 8, "target": "cuda"}, "add float16=, which is faster there"),
    ({"target": "tpu"}, "cpu, cuda, tensorrt, portable"),
    ({"method": "magic"}, "moments"),
    ({"allocate": "fair"}, "uniform"),
    ({"provider": "npu"}, "cpu"),
    ({"provider": "cuda", "provider_option": {"use_tf23": 0}}, "did you mean use_tf32?"),
    ({"provider": "cuda", "provider_option": {"magic": 0}}, "no provider has a setting magic"),
    ({"provider": "cuda", "provider_option": {"use_tf32": 2}}, "use_tf32 must be 0 or 1"),
    ({"provider": "cuda", "provider_option": {"gpu_mem_limit": "2GB"}}, "gpu_mem_limit must be a whole number"),
    ({"provider": "cuda", "provider_option": {"cudnn_conv_algo_search": "ALL"}}, "EXHAUSTIVE, HEURISTIC or DEFAULT"),
    ({"provider": "cuda", "provider_option": {"trt_fp16_enable": 1}}, "add provider='tensorrt'"),
    ({"provider_option": {"use_tf32": 0}}, "of another provider than cpu: add provider='cuda'"),
    ({"batch": 0}, "batch="),
    ({"prune-stream": "maybe"}, "auto"),
    ({"align": 0}, "align="),
    ({"images": 0}, "images="),
    ({"threads": 0}, "threads="),
    ({"seed": -1}, "seed="),
    ({"input-std": [0.0]}, "input_std="),
    ({"input-range": [1.0, 0.0]}, "input_range="),
    ({"input-mean": [float("nan")]}, "input_mean="),
    ({"input-std": [float("inf")]}, "input_std="),
    ({"input-std": [float("nan")]}, "input_std="),
    ({"input-range": [0.0, float("inf")]}, "input_range="),
    ({"input-std": [1e-300]}, "input_std="),
    ({"input-mean": [1e30]}, "input_mean="),
    ({"task": "juggling"}, "classes"),
    ({"validate": "no/such/data.npz"}, "validate='no/such/data.npz': no such file"),
    ({"input-mean": [1, 2, 3], "input-std": [1, 2]}, "input_mean="),
    ({"input-colour": "cmyk"}, "rgb"),
    ({"budget": {"joy": "0.5"}}, "macs"),
    ({"require": ["agreement"]}, "KEY>=VALUE"),
    ({"require": ["latency<=0.9"]}, "agreement"),
    ({"require": ["accuracy>=0.9"]}, "validate"),
    ({"require": ["verdict=fine"]}, "good, degraded, unusable"),
    ({"pruen": 0.5}, "did you mean prune=?"),
    ({"prune": "half"}, "prune='half': must be a number of at least 0 and below 1"),
    ({"select": "magic"}, "folded-l2"),
    ({"select": "obs", "method": "udfc"}, "method='moments'"),
]


@pytest.mark.parametrize(("values", "word"), REFUSED, ids=[str(v) for v, _ in REFUSED])
def test_refused_in_one_line_that_names_what_to_change(values: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError) as refused:
        options_from(values)
    assert word in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 32])
def test_bits_accepted(bits: int) -> None:
    Options(bits=bits).check()


def test_importing_options_is_light() -> None:
    modules = "onnx_udfc.options, onnx_udfc.evaluate.report"
    code = f"import sys, {modules}; print('numpy' in sys.modules or 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "measured", "met"),
    [
        ("agreement>=0.95", 0.95, True),
        ("agreement>=0.95", 0.9499, False),
        ("agreement > 0.95", 0.95, False),
        ("sqnr_db>=20", 20.5, True),
        ("sqnr>=2e1", 19.0, False),
        ("bytes<=0.2", 0.2, True),
        ("bytes<0.2", 0.2, False),
        ("macs<=0.5", 0.6, False),
        ("cosine>=0.99", None, False),
        ("parameters<=1", 0.3, True),
    ],
)
def test_ten_gates(text: str, measured: float | None, met: bool) -> None:
    requirement = parse_requirement(text)
    assert requirement.met(measured) is met
    if met:
        check_requirements([requirement], {requirement.key: measured})
    else:
        with pytest.raises(GateError, match=requirement.key) as refused:
            check_requirements([requirement], {requirement.key: measured})
        assert refused.value.exit_code == 3


def test_all_missed_gates_are_named_at_once() -> None:
    gates = [parse_requirement(r, VALIDATE_REQUIREMENTS) for r in ("accuracy>=0.9", "latency<=0.5", "bytes<=1")]
    with pytest.raises(GateError, match=r"accuracy>=0.9 \(is 0.8\), latency<=0.5 \(is not measured\)$"):
        check_requirements(gates, {"accuracy": 0.8, "latency": None, "bytes": 0.5})


@pytest.mark.parametrize(
    ("key", "value", "budget"),
    [
        ("macs", "0.5", Budget("macs", 0.5, True)),
        ("macs", "50%", Budget("macs", 0.5, True)),
        ("macs", "1.2G", Budget("macs", 1.2e9, False)),
        ("params", "200000", Budget("params", 200_000, False)),
        ("params", "1", Budget("params", 1.0, True)),
        ("bytes", "2MB", Budget("bytes", 2e6, False)),
        ("bytes", "64 KiB", Budget("bytes", 65_536, False)),
        ("latency", "0.4", Budget("latency", 0.4, True)),
    ],
)
def test_budgets(key: str, value: str, budget: Budget) -> None:
    assert parse_budget(key, value) == budget


def test_data_that_are_no_path_are_named_by_their_type() -> None:
    values: tuple[Any, ...] = (np.zeros((2, 3, 4, 4)), (np.zeros((3, 4, 4)) for _ in range(2)))
    for value in values:
        with pytest.raises(
            OptionError, match=r"^calibrate=.a value of type \w+.: must be the path of a file or folder"
        ):
            Options(calibrate=value)
        with pytest.raises(OptionError, match=r"^images=.a value of type \w+.: must be the path of a file or folder"):
            Judging(images=value)


@pytest.mark.parametrize(("text", "size"), [("2g", 2e9), ("512Mi", 2**29), ("1.5GiB", 1.5 * 2**30), ("1TB", 1e12)])
def test_amounts_of_memory_are_written_as_docker_and_kubernetes_write_them(text: str, size: float) -> None:
    assert Options(memory=text).memory_bound == size


@pytest.mark.parametrize("value", ["", "0", "-1", "200%", "2XB", "1.2.3", "nan", "lots"])
def test_budgets_refused(value: str) -> None:
    with pytest.raises(RequestError):
        parse_budget("bytes", value)


def test_a_latency_budget_is_a_fraction() -> None:
    with pytest.raises(RequestError, match="fraction"):
        parse_budget("latency", "3")


def test_limits() -> None:
    assert parse_budget("bytes", "0.5").limit(100) == 50
    assert parse_budget("bytes", "2KB").limit(100) == 2000


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(prune=0.3, bits=6, skip=('a"b', "c\\d"), input_mean=(0.5,), input_range=(-1.0, 1.0)),
        options_from({"budget": {"macs": "0.5"}, "bits": "auto", "require": ["agreement>=0.9"], "seed": 3}),
    ],
)
def test_printed_config_reads_back(options: Options) -> None:
    assert options_from(tomllib.loads(as_toml(options))) == options


def test_only_what_was_changed() -> None:
    assert Options().changed() == {}
    assert Options(prune=0.5, skip=("a",)).changed() == {"prune": 0.5, "skip": ["a"]}


def test_numbers_as_people_write_them() -> None:
    assert Options(prune=".5") == Options(prune=0.5)
    assert Options(bits="4.", prune_layer={"a": "5.e-1"}) == Options(bits=4, prune_layer={"a": 0.5})
    assert Options(input_mean=".5,1.,.25").input_mean == (0.5, 1.0, 0.25)
    assert Sweeping(prune=".3,.5").prune == (0.3, 0.5)
    for wrong in (".", "-.5", ".5.", "1..", ".e1"):
        with pytest.raises(OptionError):
            Options(prune=wrong)


def test_lists_of_a_sweep() -> None:
    assert Sweeping(prune="0.1:0.7:0.1").prune == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert Sweeping(prune="0,25%,0").prune == (0.0, 0.25)
    assert Sweeping(prune=[0, 0.5], bits="8,auto", activations="none,8") == Sweeping(
        prune=(0.0, 0.5), bits=(8, "auto"), activations=(None, 8)
    )


@pytest.mark.parametrize(
    "text",
    [
        "a,b",
        "0.1:0.5:0",
        "0:inf:0.1",
        "0:0.5:1e-9",
        "0:nan:1",
        "0:1:inf",
        "-inf:0:1",
        "nan:1:0.1",
        "0.5:0.1:0.1",
        "0:1:0.5",
        "",
        ":",
    ],
)
def test_lists_of_a_sweep_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"^prune=.*: (must be|these are more than 1000)"):
        Sweeping(prune=text)


def test_a_sweep_is_bounded_and_names_each_setting_once() -> None:
    with pytest.raises(CombinationError, match="1,200 settings") as refused:
        list(Grid(tuple(i / 1000 for i in range(600)), (8, 4)).points(Options()))
    assert refused.value.exit_code == 2
    names = [name for name, _ in Grid((0.1234567, 0.12345671, 0.5, 0.50), (8, 8)).points(Options())]
    assert names == ["prune0.1234567_bits8", "prune0.12345671_bits8", "prune0.5_bits8"]


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(CombinationError, match="needs quantized weights too: add --bits 8"):
        list(Grid((0.0, 0.5), (32,), (8,)).points(Options()))


def test_a_grid_leaves_out_quantized_activations_of_float_weights() -> None:
    grid = Grid((0.0, 0.5), (32, 8), (None, 8))
    names = [name for name, _ in grid.points(Options())]
    assert names == [
        *("prune0_bits32", "prune0_bits8", "prune0_bits8_act8"),
        *("prune0.5_bits32", "prune0.5_bits8", "prune0.5_bits8_act8"),
    ]


@pytest.mark.parametrize(
    ("line", "python"),
    [
        ("take --method moments, or --select l2", "take method='moments', or select='l2'"),
        ("--bits 8 needs a --budget to choose by", "bits=8 needs a budget= to choose by"),
        ("fewer --bits make it smaller; --no-such-option", "fewer bits= make it smaller; --no-such-option"),
        ("--prune-layer conv*: nothing has --bits 8", "prune_layer='conv*': nothing has bits=8"),
        ("--images 4: too few", "images=4: too few"),
    ],
)
def test_messages_for_the_command_line_in_python_s_words(line: str, python: str) -> None:
    assert PYTHON.respelled(line, words_of(Options)) == python
    assert LINE.respelled(line, words_of(Options)) == line


def test_settings_of_a_provider_in_the_words_of_onnxruntime() -> None:
    asked = {"USE_TF32": False, "prefer_nhwc": "true", "cudnn_conv_algo_search": "heuristic", "trt_fp16_enable": 1.0}
    wanted = {"use_tf32": "0", "prefer_nhwc": "1", "cudnn_conv_algo_search": "HEURISTIC", "trt_fp16_enable": "1"}
    options = Options(provider="tensorrt", provider_option=asked)
    options.check()
    assert options.provider_option == wanted
    assert Options(provider_option=["use_tf32=0", "prefer_nhwc=1"]).provider_option == dict([*wanted.items()][:2])
