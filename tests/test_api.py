"""The package as Python users meet it: names at the top, models in any form, every option a keyword."""

from __future__ import annotations

import doctest
import inspect as signatures
import io
import json
import logging
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_udfc
from onnx_udfc import GateError, Options, Result, UdfcError, compress, inspect, sweep, validate
from onnx_udfc.errors import ModelError, RequestError
from onnx_udfc.options import (
    LINE,
    PYTHON,
    CombinationError,
    Judging,
    OptionError,
    Sweeping,
    UnknownOptionError,
    Voice,
    options_from,
    specs,
)
from tests.command_line import small_classifier

MODEL = str(Path(__file__).resolve().parents[1] / "models/digits_resnet_folded.onnx")
QUICK: dict[str, Any] = {"method": "udfc", "threads": 1}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return small_classifier()


@pytest.fixture(scope="module")
def expected(model: onnx.ModelProto) -> bytes:
    return bytes(compress(model, Options(prune=0.5, bits=8, **QUICK)).model.SerializeToString())


def test_the_names_at_the_top() -> None:
    names = {"compress", "inspect", "validate", "sweep", "Options", "Result", "Report", "UdfcError", "GateError"}
    assert names | {"CheckError", "__version__"} == set(onnx_udfc.__all__)
    assert names <= set(dir(onnx_udfc))
    for name in onnx_udfc.__all__:
        assert getattr(onnx_udfc, name) is not None
    assert onnx_udfc.__version__.count(".") == 2


def test_importing_the_package_is_light_and_modules_do_not_hide_functions() -> None:
    code = (
        "import sys, onnx_udfc; print('numpy' in sys.modules or 'onnx' in sys.modules or 'click' in sys.modules);"
        "import onnx_udfc.sweep, onnx_udfc.pipeline; print(callable(onnx_udfc.sweep), callable(onnx_udfc.compress))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize(
    "form", ["path", "text", "bytes", "bytearray", "memoryview", "file", "buffer", "proto", "program"]
)
def test_a_model_in_any_form(form: str, model: onnx.ModelProto, expected: bytes, tmp_path: Path) -> None:
    path, data = tmp_path / "in.onnx", model.SerializeToString()
    path.write_bytes(data)
    with path.open("rb") as file:
        source: Any = {
            "path": path,
            "text": str(path),
            "bytes": data,
            "bytearray": bytearray(data),
            "memoryview": memoryview(data),
            "file": file,
            "buffer": io.BytesIO(data),
            "proto": model,
            "program": types.SimpleNamespace(model_proto=model),
        }[form]
        result = compress(source, prune=0.5, bits=8, **QUICK)
    assert result.model.SerializeToString() == expected


def test_a_model_of_onnx_ir(model: onnx.ModelProto, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        """Stands for onnx_ir.Model."""

    Model.__module__ = "onnx_ir._core"
    package: Any = types.ModuleType("onnx_ir")
    package.to_proto = lambda given: model if isinstance(given, Model) else None
    monkeypatch.setitem(sys.modules, "onnx_ir", package)
    given: Any = Model()
    assert compress(given, prune=0.5, bits=8, **QUICK).model.SerializeToString() == expected


@pytest.mark.parametrize(
    "source", [5, None, ["in.onnx"], io.StringIO("text"), object()], ids=lambda given: type(given).__name__
)
def test_what_is_no_model_is_one_line(source: Any) -> None:
    for call in (compress, inspect):
        with pytest.raises(ModelError) as refused:
            call(source)
        assert "\n" not in str(refused.value)


CLOSED = io.BytesIO()
CLOSED.close()
SLIPS: list[tuple[Callable[[], object], str]] = [
    (lambda: compress(MODEL, "out.onnx", prune=0.5), "options= must be an Options, not str; .*save"),  # type: ignore[arg-type]
    (lambda: compress(MODEL, 0.5), "options= must be an Options, not float; "),  # type: ignore[arg-type]
    (lambda: compress(MODEL, {}), "options= must be an Options, not dict; "),  # type: ignore[arg-type]
    (lambda: compress(MODEL, Options), "options= must be an Options, not the class itself; "),  # type: ignore[arg-type]
    (lambda: compress(MODEL, None, print), "callbacks= must have the methods stage, "),  # type: ignore[arg-type]
    (lambda: compress(MODEL, original=MODEL), "original= must be an Original, not str"),  # type: ignore[arg-type]
    (lambda: compress(MODEL, base=3), "a path must be text or a pathlib.Path, not int"),  # type: ignore[arg-type]
    (lambda: compress(CLOSED), "the model cannot be read .*; open the file with 'rb'"),
    (lambda: compress(""), "the path of the model is an empty word"),
    (lambda: validate(MODEL, MODEL, Options()), "callbacks= must have .* which Options has not"),  # type: ignore[arg-type]
    (lambda: sweep(MODEL, None, prune=[0.5]), "a path must be text or a pathlib.Path, not NoneType"),  # type: ignore[arg-type]
    (lambda: sweep(MODEL, "results", [0.5]), "options= must be an Options, not list; .*DIR"),  # type: ignore[arg-type]
    (lambda: compress(MODEL, bits=32).save(io.BytesIO()), "a path must be .*, not BytesIO"),  # type: ignore[arg-type]
    (lambda: compress(MODEL, bits=32).save(b"out.onnx"), "a path must be .*, not bytes"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("slip", "line"), SLIPS, ids=[line[:40] for _, line in SLIPS])
def test_arguments_of_the_wrong_kind_are_one_line(
    slip: Callable[[], object], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UdfcError, match=line) as refused:
        slip()
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_a_model(model: onnx.ModelProto) -> None:
    found = validate(model, compress(model, bits=32), seconds=0, memory=False, threads=1, limit=4)
    assert found.outputs[0].max_difference == 0.0


def test_keywords_are_options(model: onnx.ModelProto, expected: bytes) -> None:
    result = compress(model, prune=np.float32(0.5), bits=np.int64(8), threads=1, method="UDFC")
    assert result.model.SerializeToString() == expected
    assert json.loads(result.report.to_json())["options"]["bits"] == 8
    replaced = compress(model, Options(prune=0.5, bits=4, **QUICK), bits="8")
    assert replaced.model.SerializeToString() == expected


def test_a_budget_may_choose_the_bits(model: onnx.ModelProto) -> None:
    result = compress(model, bits="auto", budget={"bytes": 0.4}, threads=1, images=8)
    assert result.report.after.bytes <= 0.4 * result.report.before.bytes


WRONG: list[tuple[dict[str, Any], type[UdfcError], str]] = [
    ({"pruen": 0.5}, UnknownOptionError, "unknown option pruen=; did you mean prune=?"),
    ({"bits": 9}, OptionError, "bits=9: must be one of 2, 3, 4, 5, 6, 7, 8, 32, auto"),
    ({"require": ["agreement>=x"]}, OptionError, "require='agreement>=x': "),
    ({"activations": 8}, RequestError, "activations=8 needs quantized weights too: add bits=8 (or 4)"),
    ({"calibrate": "nowhere"}, RequestError, "calibrate='nowhere': no such file or folder"),
    ({"prune_layer": {"nowhere": 0.5}}, RequestError, "prune_layer="),
]


@pytest.mark.parametrize(("asked", "kind", "begin"), WRONG, ids=[str(w[0]) for w in WRONG])
def test_errors_name_keywords(asked: dict[str, Any], kind: type[UdfcError], begin: str, model: onnx.ModelProto) -> None:
    with pytest.raises(kind) as refused:
        compress(model, threads=1, **asked)
    assert str(refused.value).startswith(begin)
    assert "--" not in str(refused.value)


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="pruen"):
        compress("in.onnx", pruen=0.5)  # type: ignore[call-arg]


def test_validate_takes_keywords_and_holds_gates(model: onnx.ModelProto) -> None:
    found = validate(model, model, seconds=0, memory=False, threads=1, limit=4)
    assert found.outputs[0].max_difference == 0.0
    with pytest.raises(GateError, match="accuracy"):
        validate(model, model, seconds=0, memory=False, limit=4, require="accuracy>=0.5")
    with pytest.raises(OptionError, match="seconds="):
        validate(model, model, seconds=-1)


def test_sweep_takes_lists(model: onnx.ModelProto, tmp_path: Path) -> None:
    table = sweep(model, tmp_path, prune=[0, 0.5], bits="8", jobs=1, **QUICK)
    assert [row.name for row in table.rows] == ["prune0_bits8", "prune0.5_bits8"]
    with pytest.raises(OptionError, match=r"^prune='0:1:1e-9'"):
        sweep(model, tmp_path, prune="0:1:1e-9")


def test_inspect_takes_one_pattern(model: onnx.ModelProto) -> None:
    everything = inspect(model)
    assert inspect(model, skip="*").groups == ()
    assert everything.groups


@pytest.mark.parametrize(
    ("function", "tables"), [(compress, [Options]), (validate, [Judging]), (sweep, [Options, Sweeping])]
)
def test_signature_and_documentation_have_every_option(function: Any, tables: list[type]) -> None:
    shown = signatures.signature(function).parameters
    rows = {name: spec for table in tables for name, spec in specs(table).items()}
    for name in rows.keys() - {"quiet", "json", "verbose", "debug", "config"}:
        assert shown[name].kind in (signatures.Parameter.KEYWORD_ONLY, signatures.Parameter.POSITIONAL_OR_KEYWORD)
        assert f"    {name} [" in function.__doc__


def test_examples_in_the_documentation_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx_udfc import api

    monkeypatch.chdir(Path(__file__).parents[1])
    assert doctest.testmod(api).failed == 0
    assert doctest.testmod(api).attempted >= 6


def test_a_result_is_short_on_a_screen(model: onnx.ModelProto) -> None:
    result = compress(model, bits=8, **QUICK)
    assert isinstance(result, Result)
    before, after = result.report.before, result.report.after
    assert repr(result) == f"Result(bytes {before.bytes:,} -> {after.bytes:,}, MACs {before.macs:,} -> {after.macs:,})"
    assert "<table>" in result._repr_html_()
    assert f"{after.parameters:,}" in result._repr_html_()


def test_stages_are_logged(model: onnx.ModelProto, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onnx_udfc"):
        compress(model, bits=8, **QUICK)
    stages = [record.getMessage() for record in caplog.records if record.name == "onnx_udfc"]
    assert "read" in stages
    assert "check" in stages


CROSSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"bits": "auto"}, "--bits auto needs a --budget", "bits='auto' needs a budget=", 'bits = "auto" needs a `budget`'),
    ({"activations": 8}, "--activations 8 needs", "activations=8 needs", "activations = 8 needs"),
    (
        {"select": "obs", "method": "none"},
        "--select obs needs --method",
        "select='obs' needs method=",
        'select = "obs"',
    ),
    (
        {"prune_layer": {"a": 0.5}, "allocate": "global"},
        "--prune-layer a=0.5 says",
        "prune_layer={'a'",
        "prune-layer = ",
    ),
    ({"input_range": [1, 0]}, "--input-range 1.0,0.0: ", "input_range=[1.0, 0.0]: ", "input-range = [1.0, 0.0]: "),
    (
        {"input_mean": [1, 2], "input_std": [1, 2, 3]},
        "--input-mean 1.0,2.0 has 2",
        "input_mean=[1.0",
        "input-mean = [1.0",
    ),
]


@pytest.mark.parametrize(("asked", "line", "python", "file"), CROSSED, ids=[str(c[0]) for c in CROSSED])
def test_options_that_do_not_go_together_are_named_as_written(
    asked: dict[str, Any], line: str, python: str, file: str, model: onnx.ModelProto
) -> None:
    for voice, begin in ((LINE, line), (Voice("file", "u.toml"), f"u.toml: {file}"), (PYTHON, python)):
        with pytest.raises(CombinationError) as refused:
            options_from(asked, voice)
        assert str(refused.value).startswith(begin)
        assert refused.value.exit_code == 2
    with pytest.raises(CombinationError) as refused:
        compress(model, **asked)
    assert str(refused.value).startswith(python)
