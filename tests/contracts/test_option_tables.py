"""Every option of every table: its default, right values and wrong ones, from the command line, TOML and Python."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from onnx_udfc.cli.commands import app, run
from onnx_udfc.cli.options import as_toml
from onnx_udfc.numerics.elimination import CRITERIA as SCORES
from onnx_udfc.numerics.elimination import MEASURED
from onnx_udfc.numerics.reconstruct import METHODS as SOLVERS
from onnx_udfc.options import (
    CRITERIA,
    LINE,
    METHODS,
    PYTHON,
    Inspecting,
    Judging,
    OptionError,
    Options,
    Spec,
    Sweeping,
    Table,
    Voice,
    Writing,
    as_words,
    command_line,
    options_from,
    read_value,
    specs,
)
from tools.pack import option_pages

TABLES: tuple[type[Table], ...] = (Options, Writing, Inspecting, Judging, Sweeping)
SPECS = [pytest.param(spec, id=f"{t.__name__}.{spec.name}") for t in TABLES for spec in specs(t).values()]
OF_COMPRESS = {name: spec for t in (Options, Writing) for name, spec in specs(t).items()}
TEXT = ("calibrate", "validate", "images", "labels", "labelled", "config", "skip", "report")  # any text may be right
LOOSE = {"prune": "sweep", "bits": "sweep", "activations": "sweep"}  # lists of a sweep are read with its grid
FILE = Voice("file", "udfc.toml")


def wrong_text(spec: Spec) -> list[str]:
    """Words of a command line that the option must refuse."""
    if spec.kind == "flag":
        return []
    if spec.kind == "pairs":
        return ["", "key", "=1", "key=", "key=nan", "key=inf", "key=-1", "key=many", "key=1e999"]
    if spec.kind == "numbers":
        return ["many", "nan", "1,inf", "1;2", "-inf", "0x10", "1e999", "", ",", "1,,2", "1,2,"]
    if spec.row.choices:
        return ["no-such-word", "", "nan"]
    number, meta = spec.number
    if number is not None:
        beyond = [str(v - 1) for v in (meta.ge,) if v is not None] + [str(v + 1) for v in (meta.le,) if v is not None]
        beyond += [str(v) for v in (meta.gt, meta.lt) if v is not None] + (["1.5"] if number is int else [])
        return ["many", "", "nan", "inf", "-1e999", "9" * 40 if meta.le or number is int else "1e999", *beyond]
    return ["x"] if spec.name in ("require", "report") else []


def wrong_values(spec: Spec) -> list[Any]:
    """Values of TOML or Python that the option must refuse."""
    anything: list[Any] = [[[1]], {"a": {"b": 1}}, [{"a": 1}], object()]
    if spec.kind == "flag":
        return [*anything, "no", "yes", "", 2, 0.5, None, [True]]
    anything += [True] if spec.kind != "several" else [[True], [5], [""], 5]
    if spec.kind == "one" and spec.number[0] is not None:
        anything += [10**30, float("nan"), float("inf"), np.float32("nan"), b"1", [1]]
    if spec.kind == "numbers":
        anything += [["a"], [float("nan")], [1, float("inf")], [10**400], np.full(3, np.nan), b"1"]
    if spec.kind == "pairs":
        anything += [5, ["x"], {"a": "half"}, {"": 0.5}, {5: 0.5}, {"macs": float("nan")}, {"macs": True}]
    if spec.kind == "one" and not spec.number[0]:
        anything += [5, 0.5, b"cpu", ["cpu"]]
    return [*anything, *wrong_text(spec)]


def refused(spec: Spec, value: Any, voice: Voice) -> str:
    """Return the line by which a value is refused."""
    with pytest.raises(OptionError) as caught:
        read_value(spec, value, voice)
    line = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in line
    assert len(line) < 400
    return line


def exit_code(*words: str) -> int:
    """Run the command line here."""
    return run(lambda: app.main(list(words), standalone_mode=False), False)


@pytest.mark.parametrize("spec", SPECS)
def test_a_row_is_complete(spec: Spec) -> None:
    assert spec.row.help[0].isupper() or spec.row.help[0].isdigit()
    assert spec.row.help.endswith(".")
    if spec.kind != "flag":
        assert spec.metavar
        assert spec.row.choices or spec.row.example, "a value to show in help and docs"
    if spec.default is None:
        assert spec.optional


@pytest.mark.parametrize("spec", SPECS)
def test_defaults_and_examples_are_right_values(spec: Spec) -> None:
    assert read_value(spec, spec.default, PYTHON) == spec.default
    for example in filter(None, spec.row.example.split(" or ")):
        read_value(spec, [example] if spec.kind in ("several", "pairs") else example, LINE)
    for word in (*spec.row.choices, *spec.words):
        value = read_value(spec, word, FILE)
        assert value == (None if word == "none" and spec.optional else word)
        assert read_value(spec, str(word).upper(), LINE) == value


@pytest.mark.parametrize("spec", SPECS)
def test_wrong_values_in_python_and_toml_are_one_line_that_names_the_key_as_written(spec: Spec) -> None:
    for value in wrong_values(spec):
        if spec.optional and value is None:
            continue
        assert refused(spec, value, PYTHON).startswith(f"{spec.name}=")
        assert refused(spec, value, FILE).startswith(f"udfc.toml: {spec.flag} = ")


@pytest.mark.parametrize("spec", [s for s in OF_COMPRESS.values() if wrong_text(s)], ids=lambda s: s.name)
def test_wrong_values_on_the_command_line_are_exit_2(
    spec: Spec, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in wrong_text(spec):
        code = exit_code("a.onnx", "b.onnx", f"--{spec.flag}={text}")
        printed = capsys.readouterr()
        assert (code, printed.out) == (2, ""), f"{spec.flag}={text}: {printed}"
        assert printed.err.startswith(f"onnx-udfc: --{spec.flag} "), printed.err
        assert printed.err.count("\n") == 1


@pytest.mark.parametrize("spec", [s for s in OF_COMPRESS.values() if s.name != "config"], ids=lambda s: s.name)
def test_wrong_values_in_a_file_are_exit_2_and_name_the_file(
    spec: Spec, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ("[[[1]]]", "{a = {b = 1}}", "1979-05-27"):
        Path("udfc.toml").write_text(f"{spec.flag} = {value}\n", encoding="utf-8")
        code = exit_code("a.onnx", "b.onnx", "--config", "udfc.toml")
        line = capsys.readouterr().err
        assert code == 2, line
        assert line.startswith(f"onnx-udfc: udfc.toml: {spec.flag} = "), line


def one_of_each() -> list[Options]:
    """Options that differ from the default in one row each, for every row, and some in many."""
    made = []
    for name, spec in specs(Options).items():
        values: list[Any] = [*spec.row.choices, *filter(None, spec.row.example.split(" or "))]
        values += [True] if spec.kind == "flag" else []
        made += [Options(**{name: v}) for v in values]
    made.append(Options(prune=1 / 3, input_mean=(-0.1, 1e-7, 3.0), input_range=(-1.0, 1.0), skip=("-a b", 'c"$d', "é")))
    made.append(
        Options(budget={"bytes": "2MB", "macs": 0.5}, require=("sqnr>=-1.25", "cosine>0.12345678"), bits="auto")
    )
    made.append(Options(prune_layer={"a=b": 0.1, "*": 0.123456789}, seed=2**63 - 1))
    return made


@pytest.mark.parametrize("options", one_of_each(), ids=lambda o: str(o.changed()))
def test_the_printed_command_and_the_printed_file_parse_back(options: Options) -> None:
    words = shlex.split(command_line(options.to_dict()))
    context = app.commands["compress"].make_context("compress", words[1:])
    from onnx_udfc.cli.options import written

    silent = {name: getattr(options, name) for name, s in specs(Options).items() if not s.row.printed}
    read = written(context, Options).read(Options)
    assert Options(**{**read.to_dict(), **silent}) == options
    assert Options.reads(tomllib.loads(as_toml(options)), lambda _: FILE) == options
    assert Options(**options.to_dict()) == options
    assert Options.reads(json.loads(json.dumps(options.to_dict())), lambda _: FILE) == options


def test_one_key_twice_is_refused() -> None:
    for values in (["macs=0.5", "macs=0.4"], ["macs=0.5", "macs=0.4"], ["MACS=0.5", "macs=0.5"]):
        with pytest.raises(OptionError, match="macs is given twice"):
            Options(budget=values)
    with pytest.raises(OptionError, match="conv1 is given twice"):
        Options(prune_layer=["conv1=0.5", "conv1=0.6"])


def test_text_is_one_pattern_and_never_letters() -> None:
    assert Options(skip="a*").skip == ("a*",)
    assert options_from({"skip": "a*"}, FILE).skip == ("a*",)
    assert Options(skip=("a", "b")).skip == ("a", "b")
    assert Options(skip=(s for s in "ab")).skip == ("a", "b")
    assert [str(r) for r in Options(require="agreement>=0.1").require] == ["agreement>=0.1"]


def test_numbers_of_numpy_become_plain() -> None:
    bool_: Any = np.bool_(True)
    options = Options(
        prune=np.float32(0.5),
        bits=np.int64(8),
        seed=np.uint8(3),
        input_mean=np.array([0.5, 0.25], np.float32),
        input_range=np.array([-1, 1]),
        prune_layer={"a": np.float64(0.25)},
        budget={"macs": np.float32(0.5)},
        attribution=bool_,
    )
    assert json.loads(json.dumps(options.to_dict())) == options.to_dict()
    assert (type(options.prune), type(options.bits), type(options.seed)) == (float, int, int)
    assert options.input_mean == (0.5, 0.25)
    assert options.budget == {"macs": "0.5"}
    assert options.attribution is True


def test_tables_share_nothing_that_can_be_changed_and_end_of_what_has_none() -> None:
    first: Any = Options()
    first.budget["macs"] = "0.5"
    assert Options().budget == {}
    with pytest.raises(OptionError, match=r"^skip="):
        Options(skip=itertools.repeat("a"))


def test_percents() -> None:
    assert Options(prune="50%").prune == 0.5
    assert Options(prune_layer="conv1=25%").prune_layer == {"conv1": 0.25}
    with pytest.raises(OptionError, match=re.escape("for 50 % write 0.5 or 50%")):
        Options(prune=50)
    with pytest.raises(OptionError):
        Options(prune="100%")


def test_the_table_names_every_method_and_criterion() -> None:
    assert set(METHODS) == set(SOLVERS)
    assert set(CRITERIA) == {*SCORES, *MEASURED}


def test_short_options_and_names_are_unique() -> None:
    for tables in option_pages.TABLES.values():
        shorts = [s.row.short for t in tables for s in specs(t).values() if s.row.short]
        names = [n for t in tables for n in specs(t)]
        assert len(set(shorts)) == len(shorts)
        assert len(set(names)) == len(names)


def test_what_is_made_from_the_table_is_current() -> None:
    assert option_pages.KEYWORDS.read_text(encoding="utf-8") == option_pages.keywords(), (
        "run `python -m tools option_pages`"
    )
    assert option_pages.SCHEMA.read_text(encoding="utf-8") == option_pages.schema(), (
        "run `python -m tools option_pages`"
    )
    assert option_pages.PAGE.read_text(encoding="utf-8") == option_pages.page(), "run `python -m tools option_pages`"


def test_the_schema_takes_what_a_file_may_have_and_refuses_what_it_may_not() -> None:
    schema = json.loads(option_pages.schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for options in one_of_each():
        values = tomllib.loads(as_toml(options))
        assert not list(validator.iter_errors(values)), values
    for text in (
        "input-mean = 0.5",
        'prune = "50%"',
        'skip = "head*"',
        'prune-layer = {a = "25%"}',
        'report = "a.html"',
    ):
        assert validator.is_valid(tomllib.loads(text)), text
    for text in (
        "seed = 1.5",
        "prune = 1.0",
        "bits = 9",
        "pruen = 0.5",
        'quiet = "no"',
        "input-range = [1]",
        "skip = 5",
        "bits = '9'",
        "bits = [9]",
        "method = 'udf'",
        "prune_layr = {a = 0.5}",
        "prune-layer = ['a']",
        "prune-layer = {a = 2}",
    ):
        assert not validator.is_valid(tomllib.loads(text)), text


LOOSE_VALUES: tuple[Any, ...] = (
    True, 0, 1, 8, 0.5, -1, 1e9, "", "none", " NONE ", " 8 ", "0.5", " 50% ", ".5", "1e-3", "nan", " AUTO ", "True",
    "a", "a=0.5", "a=3", "MACS=0.5", "bytes=2MB", "use_tf32=0", ["a"], [0.5, 1], ["0.5", "1"], "0.5, 1", "0.5 1", [],
    {}, {"a": "50%"}, {"a": " 3 "}, {"MACS": 0.5}, {"use_tf32": True}, ["macs=0.5"], [["a", "3"]], [["macs", 0.5]],
    "0.1:0.7:0.1", "2GB", "sqnr>=20", ["sqnr>=20"], "x=1x3x4x4", ["a.JSON"],
)  # fmt: skip


@pytest.mark.parametrize("spec", [*OF_COMPRESS.values(), *specs(Sweeping).values()], ids=lambda s: s.name)
def test_the_schema_takes_whatever_the_reader_takes(spec: Spec) -> None:
    if spec.name in ("config", "print_config"):
        return
    validator = jsonschema.Draft202012Validator(json.loads(option_pages.schema()))
    words = [form for word in (*spec.explained, *spec.words) for form in (word, str(word).upper(), f" {word} ")]
    for value in (*LOOSE_VALUES, *words, *spec.row.example.split(" or ")):
        try:
            read_value(spec, value, FILE)
        except OptionError:
            continue
        assert validator.is_valid({spec.flag: value}), value
        assert validator.is_valid({spec.name: value}), value


def test_a_flag_s_words() -> None:
    assert as_words(specs(Options)["attribution"], True) == ["--attribution"]
    assert as_words(specs(Options)["attribution"], False) == []
