"""The report as JSON: clean, typed, and exactly what the schema says."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

import jsonschema
import numpy as np
import pytest

from onnx_udfc.evaluate.report import Fidelity, Report, plain, ratio
from onnx_udfc.options import Options, command_line, options_from

CONTRACT = {
    "": {
        "tool", "options", "before", "after", "groups", "layers", "fidelity", "runtime", "timings", "verdict",
        "predicted_loss", "predicted_range", "verdict_reason", "advice", "source", "result", "versions", "command",
        "created",
    },
    "source": {"name", "sha256", "bytes"},
    "result": {"name", "sha256", "bytes"},
    "before": {"parameters", "macs", "bytes"},
    "after": {"parameters", "macs", "bytes"},
    "groups": {"name", "channels", "kept", "producers", "consumers", "status", "reason"},
    "layers": {"name", "op_type", "bits", "parameters_before", "parameters_after", "relative_error"},
    "fidelity": {"inputs", "sqnr_db", "cosine", "agreement"},
    "runtime": {"opset", "ir_version", "onnxruntime_min", "notes"},
}  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    text = resources.files("onnx_udfc").joinpath("report.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_the_report_fits_the_schema(report: Report, schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(report.to_json()), schema)


@pytest.mark.parametrize("place", CONTRACT)
def test_the_promised_keys_are_there(report: Report, place: str) -> None:
    found = report.to_dict()
    part = found[place] if place else found
    assert CONTRACT[place] <= set(part[0] if isinstance(part, list) else part)


@pytest.mark.parametrize(
    ("key", "wrong"), [("sqnr_db", "high"), ("agreement", "yes"), ("inputs", "imagined"), ("count", 1.5)]
)
def test_the_schema_refuses_wrong_types(report: Report, schema: dict[str, Any], key: str, wrong: object) -> None:
    found = report.to_dict()
    found["fidelity"][key] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema)


def test_not_finite_is_null_and_numpy_is_plain(report: Report) -> None:
    odd = replace(
        report, timings={"read": float("nan")}, extra={"a": np.float32(0.5), "b": np.int64(3), "c": (1, None)}
    )
    found = json.loads(odd.to_json())
    assert found["timings"]["read"] is None
    assert found["extra"] == {"a": 0.5, "b": 3, "c": [1, None]}


def test_a_network_without_classes_has_no_agreement(report: Report, schema: dict[str, Any]) -> None:
    found = replace(report, fidelity=Fidelity("synthetic", 20.0, 0.99, None)).to_dict()
    jsonschema.validate(found, schema)
    assert found["fidelity"]["agreement"] is None


def test_plain_refuses_nothing() -> None:
    assert plain({"a": [True, 1, 1.5, "x", None]}) == {"a": [True, 1, 1.5, "x", None]}


def test_ratios(report: Report) -> None:
    assert ratio(1, 4) == 0.25
    assert ratio(0, 0) == 1.0
    assert report.measured("bytes") == 5_012_345 / 102_442_450
    assert report.measured("params") == 9_102_311 / 25_557_032
    assert report.measured("agreement") == 0.9375
    assert report.measured("accuracy") is None


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(prune=0.5, bits=4),
        options_from({"budget": {"macs": "0.5"}, "bits": "auto", "skip": ["a b", "*"], "require": ["sqnr>=20"]}),
        options_from(
            {"input-mean": [0.5, 0.25], "input-range": [-1, 1], "attribution": True, "activations": 8, "bits": 8}
        ),
    ],
)
def test_the_command_line_of_a_report_gives_its_options_again(options: Options) -> None:
    import shlex

    import click

    from onnx_udfc.cli import options as cli_options
    from onnx_udfc.cli.commands import app

    words = shlex.split(command_line(options.to_dict()))
    command = app.commands["compress"]
    with command.make_context("compress", words[1:]) as ctx, click.Context(command):
        assert cli_options.written(ctx, Options).read(Options) == options
