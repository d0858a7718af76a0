"""What the commands give as JSON is what the schemas say, whichever way they end."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

from onnx_udfc.cli.commands import app, run
from tests.command_line import small_classifier
from tools.pack import report_schemas

QUICK = ("--method", "none", "--image-count", "8")
PAIR = ("validate", "in.onnx", "other.onnx", "--seconds", "0.1", "--no-memory")
SWEEP = ("sweep", "in.onnx", "swept", "--prune", "0.2,0.5", *QUICK)


def validator(command: str) -> jsonschema.Draft202012Validator:
    """By the schema that is installed."""
    text = resources.files("onnx_udfc").joinpath(f"{command}.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with two networks and labelled inputs."""
    monkeypatch.chdir(tmp_path)
    model = small_classifier()
    onnx.save(model, tmp_path / "in.onnx")
    (w3,) = (w for w in model.graph.initializer if w.name == "w3")
    w3.CopyFrom(onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(w3), 1, 1), "w3"))
    onnx.save(model, tmp_path / "other.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "real.npz", x=rng.standard_normal((16, 3, 8, 8)).astype(np.float32), y=np.arange(16) % 5)
    return tmp_path


@pytest.mark.parametrize("command", report_schemas.COMMANDS)
def test_the_schemas_are_what_the_types_say(command: str) -> None:
    kept = (report_schemas.FOLDER / f"{command}.schema.json").read_text(encoding="utf-8")
    assert kept == report_schemas.schema(command), "run `python -m tools report_schemas`"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("compress", "in.onnx", "out.onnx", "--prune", "0.5", "--bits", "4"), 0),
        (("compress", "in.onnx", "out.onnx", *QUICK, "--prune", "0.9", "--force", "--validate", "real.npz"), 0),
        (("compress", "in.onnx", "out.onnx", "--bits", "8", "--dry-run"), 0),
        (("inspect", "in.onnx"), 0),
        (PAIR, 0),
        ((*PAIR, "--images", "real.npz", "--report", "r.json"), 0),
        ((*PAIR, "--require", "agreement>=0.99"), 3),
        ((*SWEEP, "--labelled", "real.npz"), 0),
        ((*SWEEP, "--require", "sqnr>=150"), 3),
        ((*SWEEP, "--budget", "bytes=0.0001"), 1),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else str(given),
)
def test_what_is_printed_fits(
    words: tuple[str, ...], code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda: app.main([*words, "--json"], standalone_mode=False), False) == code
    printed = json.loads(capsys.readouterr().out)
    schema = validator("report" if words[0] == "compress" else words[0])
    schema.validate(printed)
    for written in [*folder.glob("r.json"), *folder.glob("swept/sweep.json")]:
        assert json.loads(written.read_text(encoding="utf-8")) == printed


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("compress", "in.onnx", "out.onnx", *QUICK, "--prune", "0.5", "--require", "sqnr>=150"), 3),
        (("compress", "in.onnx", "out.onnx", *QUICK, "--prune", "0.5", "--skip", "nothing"), 1),
        (("inspect", "in.onnx", "--skip", "nothing"), 1),
        (("validate", "in.onnx", "missing.onnx"), 1),
        (("sweep", "in.onnx", "swept", "--bits", "9"), 2),
        ((*SWEEP, "--pick", "bytes<=0.0001"), 3),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else str(given),
)
def test_where_nothing_can_be_told_nothing_is_printed(
    words: tuple[str, ...], code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda: app.main([*words, "--json"], standalone_mode=False), False) == code
    assert capsys.readouterr().out == ""
    for written in folder.glob("swept/sweep.json"):
        validator("sweep").validate(json.loads(written.read_text(encoding="utf-8")))


def test_a_sweep_takes_what_its_file_says_and_the_command_line_wins(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.toml").write_text('prune = [0.2, 0.5]\nbits = "8,6"\njobs = 1\njson = true\nmethod = "none"\n')
    words = ["sweep", "in.onnx", "swept", "--config", "c.toml", "--bits", "4"]
    assert run(lambda: app.main(words, standalone_mode=False), False) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(row["prune"], row["bits"]) for row in printed["rows"]] == [(0.2, 4), (0.5, 4)]
