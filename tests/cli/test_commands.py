"""The command line as users and pipelines meet it: real processes, exit codes, what is printed, what is left behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_udfc.cli.commands import run
from tests.command_line import PRECIOUS, SHAPES, call, names

MODELS = Path(__file__).resolve().parents[2] / "models"


def test_help_is_quick_and_shows_the_main_options(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        start = os.times()
        done = call(tmp_path, "--help")
        end = os.times()  # the processor's time: a busy machine costs none
        took.append(end.children_user + end.children_system - start.children_user - start.children_system)
    for word in ("--prune", "--bits", "--require", "inspect", "validate", "sweep"):
        assert word in done.stdout
    assert done.returncode == 0
    assert min(took) <= 0.5


@pytest.mark.parametrize("command", ["compress", "inspect", "validate", "sweep"])
def test_every_command_has_help_and_every_option_a_sentence(tmp_path: Path, command: str) -> None:
    done = call(tmp_path, command, "--help")
    assert done.returncode == 0
    options = re.findall(r"^  (?:-\w, |    )--[\w-]+.*$", done.stdout, re.MULTILINE)
    assert len(options) > 5
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("sweep in.onnx out --prune 0.2 0.5", "--prune 0.2,0.5 as one word; see onnx-udfc sweep --help"),
        ("validate", "'IN'; see onnx-udfc validate --help"),
    ],
)
def test_wrong_usage_names_the_help_of_its_command(tmp_path: Path, words: str, where: str) -> None:
    done = call(tmp_path, *words.split())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith(f"{where}\n")


def test_no_arguments_is_help_and_version_is_the_package_s(tmp_path: Path) -> None:
    assert "Usage:" in call(tmp_path).stdout
    assert re.search(r"\d+\.\d+\.\d+", call(tmp_path, "--version").stdout)


@pytest.mark.parametrize(
    ("typed", "offered"), [("--pr", "--prune"), ("ins", "inspect"), ("in.onnx out.onnx --bu", "--budget")]
)
def test_completion_offers_the_default_command_s_options(tmp_path: Path, typed: str, offered: str) -> None:
    words = ["onnx-udfc", *typed.split()]
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_ONNX_UDFC_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv[0] = 'onnx-udfc'; from onnx_udfc.__main__ import main; main()"
    env = os.environ | asked
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert offered in done.stdout


def test_compress_writes_the_file_and_says_what_it_did(folder: Path) -> None:
    done = call(folder, "in.onnx", "out.onnx", "--prune", "0.5", "--bits", "8")
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(onnx.load(folder / "out.onnx"))
    for word in ("parameters", "MACs", "bytes", "SQNR", "it is an output of the network", "most of it in", "out.onnx"):
        assert word in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert names(folder) == {"in.onnx", "out.onnx"}


def test_options_may_come_first_and_compress_may_be_named(folder: Path) -> None:
    first = call(folder, "--method", "none", "--prune", "0.5", "in.onnx", "a.onnx", "--quiet")
    second = call(folder, "compress", "in.onnx", "b.onnx", "--method", "none", "--prune", "0.5", "--quiet")
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    assert second.returncode == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def damage(folder: Path, model: onnx.ModelProto, kind: str) -> str:
    """Make a bad input and return its name."""
    data = model.SerializeToString()
    path = folder / "bad.onnx"
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "nan":
        broken = np.full(SHAPES["w2"], np.nan, np.float32)
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(broken, "w2"))
        onnx.save(model, path)
    return path.name


REFUSED = [
    (("missing.onnx", "out.onnx"), 1),
    (("in.onnx", "out.onnx", "--prune", "1.0"), 2),
    (("in.onnx", "out.onnx", "--prune", "-0.5"), 2),
    (("in.onnx", "out.onnx", "--bits", "9"), 2),
    (("in.onnx", "out.onnx", "--bits", "many"), 2),
    (("in.onnx", "out.onnx", "--target", "tpu"), 2),
    (("in.onnx", "out.onnx", "--no-such-option"), 2),
    (("in.onnx", "out.onnx", "extra"), 2),
    (("in.onnx",), 2),
    (("in.onnx", "out.onnx", "--input-range", "1"), 2),
    (("in.onnx", "out.onnx", "--budget", "macs"), 2),
    (("in.onnx", "out.onnx", "--budget", "macs=lots"), 2),
    (("in.onnx", "out.onnx", "--require", "agreement"), 2),
    (("in.onnx", "out.onnx", "--config", "none.toml"), 1),
    (("in.onnx", "out.onnx", "--report", "report.txt"), 2),
    (("in.onnx", "out.onnx", "--report", "nowhere/report.json"), 1),
    (("in.onnx", "nowhere/out.onnx"), 1),
    (("in.onnx", "in.onnx", "--prune", "0.5"), 1),
    (("in.onnx", ".", "--prune", "0.5"), 1),
    (("in.onnx", "out.onnx", "--calibrate", "nowhere"), 1),
    (("in.onnx", "out.onnx", "--activations", "8", "--bits", "8", "--target", "cuda"), 2),
    (("inspect", "missing.onnx"), 1),
    (("validate", "in.onnx", "missing.onnx"), 1),
    (("validate", "in.onnx", "in.onnx", "--require", "joy>=1"), 2),
    (("validate", "in.onnx", "in.onnx", "--labels", "labels.csv"), 2),
    (("sweep", "in.onnx", "dir", "--prune", "0.5", "--labels", "labels.csv"), 2),
    (("sweep", "in.onnx", "dir", "--activations", "8"), 2),
    (("sweep", "in.onnx", "in.onnx", "--prune", "0.5"), 1),
    (("prune", "in.onnx", "out.onnx"), 2),
    (("sweep", "in.onnx", "dir", "--prune", "0.1:x"), 2),
]


MISSING = (
    ("compress", "no.onnx", "out.onnx"), ("compress", "no.onnx", "--dry-run"), ("compress", ".", "out.onnx"),
    ("inspect", "no.onnx"), ("validate", "in.onnx", "no.onnx"), ("sweep", "no.onnx", "dir"),
)  # fmt: skip


@pytest.mark.parametrize("words", MISSING, ids=" ".join)
def test_what_is_no_file_is_refused_before_anything_of_weight_is_imported(folder: Path, words: tuple[str, ...]) -> None:
    code = (
        "import sys; from onnx_udfc.cli.commands import app, run; code = run(lambda: app(sys.argv[1:],"
        " standalone_mode=False), False); assert code == 1; assert not {'numpy', 'onnx'} & {*sys.modules}"
    )
    words_of_python = [sys.executable, "-c", code, *words]
    done = subprocess.run(words_of_python, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("words", "code"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_refusals_are_one_line_and_leave_everything_as_it_was(folder: Path, words: tuple[str, ...], code: int) -> None:
    (folder / "out.onnx").write_bytes(PRECIOUS)
    before = (folder / "in.onnx").read_bytes()
    done = call(folder, *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("onnx-udfc: ")
    assert "internal error" not in done.stderr
    assert (folder / "out.onnx").read_bytes() == PRECIOUS
    assert (folder / "in.onnx").read_bytes() == before
    assert names(folder) == {"in.onnx", "out.onnx"}


@pytest.mark.parametrize("kind", ["truncated", "random", "empty", "nan"])
@pytest.mark.parametrize("command", ["compress", "inspect", "validate"])
def test_bad_models_are_refused_in_one_line(folder: Path, model: onnx.ModelProto, kind: str, command: str) -> None:
    bad = damage(folder, model, kind)
    words = {"inspect": [bad], "validate": ["in.onnx", bad], "compress": [bad, "out.onnx", "--bits", "8"]}[command]
    (folder / "out.onnx").write_bytes(PRECIOUS)
    done = call(folder, command, *words)
    if kind == "nan" and command == "inspect":
        assert done.returncode in (0, 1)
        return
    assert done.returncode in (1, 3), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "internal error" not in done.stderr
    assert (folder / "out.onnx").read_bytes() == PRECIOUS


GATES = [
    ("agreement>=0.0", 0),
    ("agreement>1", 3),
    ("sqnr>=-100", 0),
    ("sqnr>=150", 3),
    ("cosine>=-1", 0),
    ("cosine>1", 3),
    ("macs<=0.7", 0),
    ("macs<=0.1", 3),
    ("params<=0.7", 0),
    ("bytes<=0.01", 3),
]


@pytest.mark.parametrize(("gate", "code"), GATES)
def test_gates(folder: Path, gate: str, code: int) -> None:
    (folder / "out.onnx").write_bytes(PRECIOUS)
    options = ("--method", "udfc", "--prune", "0.5", "--bits", "8", "--report", "r.json", "--quiet")
    done = call(folder, "in.onnx", "out.onnx", *options, "--require", gate)
    assert done.returncode == code, done.stderr
    assert ((folder / "out.onnx").read_bytes() == PRECIOUS) is (code == 3)
    assert (folder / "r.json").exists() is (code == 0)
    assert len(done.stderr.splitlines()) == (code == 3)
    assert (gate.split(">")[0].split("<")[0] in done.stderr) is (code == 3)


def test_validate_says_what_it_was_judged_on(folder: Path) -> None:
    np.save(folder / "x.npy", np.zeros((8, 3, 8, 8), np.float32))
    quick = ("--seconds", "0", "--no-memory")
    for words, said in (((), " made-up inputs"), (("--images", "x.npy"), "on 8 real inputs")):
        assert said in call(folder, "validate", "in.onnx", "in.onnx", *quick, *words).stdout


def test_gates_of_validate(folder: Path) -> None:
    quick = ("--seconds", "0", "--no-memory", "--quiet")
    assert call(folder, "validate", "in.onnx", "in.onnx", *quick, "--require", "sqnr>=100").returncode == 0
    free = call(folder, "validate", "in.onnx", "in.onnx", *quick, "--require", "agreement>=1")
    assert free.returncode == 3  # both say one class every time
    assert "agreement>=1 (is not measured)" in free.stderr
    done = call(
        folder, "validate", "in.onnx", "in.onnx", *quick, "--require", "agreement>=1", "--require", "accuracy>=0.9"
    )
    assert done.returncode == 3
    assert "accuracy>=0.9 (is not measured)" in done.stderr


@pytest.mark.parametrize(("typed", "meant"), [("inspct", "inspect"), ("Sweep", "sweep"), ("validat", "validate")])
def test_a_typo_of_a_command_is_wrong_usage(folder: Path, typed: str, meant: str) -> None:
    done = call(folder, typed, "in.onnx", "out")
    assert done.returncode == 2
    assert f"did you mean {meant}?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (folder / typed).write_bytes((folder / "in.onnx").read_bytes())
    assert call(folder, typed, "out.onnx", "--method", "none", "--bits", "8").returncode == 0, "a file of that name"


def test_a_plain_word_is_an_input_that_is_not_there_if_out_follows(folder: Path) -> None:
    for words, code in ((("foo", "out.onnx"), 1), (("foo", "out.onnx", "-p", "0.5"), 1), (("foo",), 2)):
        done = call(folder, *words)
        assert done.returncode == code
        assert "no command or file 'foo'; commands are compress, inspect, sweep, validate" in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("in.onnx", "out.onnx", "--input-range", "0", "1"), "--input-range 0,1"),
        (("in.onnx", "out.onnx", "--input-mean", "0.5", "0.5", "0.5"), "--input-mean 0.5,0.5"),
        (("--input-range", "0", "1", "in.onnx", "out.onnx"), "--input-range 0,1"),
        (("in.onnx", "out.onnx", "--prune", "50"), "for 50 % write 0.5 or 50%"),
        (("in.onnx", "out.onnx", "--require", "agreement"), "quote it"),
        (("in.onnx", "out.onnx", "--require", "accuracy>=0.9"), "give --validate them"),
        (("in.onnx", "out.onnx", "--threads", "99999999999"), "at most 1024"),
        (("in.onnx", "out.onnx", "--budget", "macs=0.5", "--budget", "macs=0.4"), "given twice"),
        (("in.onnx", "out.onnx", "--target", "tensort"), "did you mean tensorrt?"),
        (("in.onnx", "out.onnx", "--prun", "0.5"), "--prune"),
        (("-", "out.onnx"), "IN is -"),
        (("in.onnx", "-"), "OUT is -"),
        (("", "out.onnx"), "IN is an empty word"),
    ],
)
def test_slips_are_exit_2_with_what_was_meant(folder: Path, words: tuple[str, ...], line: str) -> None:
    done = call(folder, *words)
    assert done.returncode == 2, done.stderr
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert names(folder) == {"in.onnx"}


def test_files_that_the_tool_did_not_write_are_replaced_only_on_demand(folder: Path, model: onnx.ModelProto) -> None:
    quick = ("--method", "none", "--bits", "8", "--quiet")
    onnx.save(model, folder / "other.onnx")
    before = (folder / "other.onnx").read_bytes()
    done = call(folder, "in.onnx", "other.onnx", *quick)
    assert (done.returncode, (folder / "other.onnx").read_bytes()) == (1, before)
    assert "was not written by onnx-udfc" in done.stderr
    assert call(folder, "in.onnx", "out.onnx", *quick).returncode == 0
    assert call(folder, "in.onnx", "out.onnx", *quick).returncode == 0, "its own results are replaced"
    swapped = call(folder, "out.onnx", "in.onnx", *quick)
    assert (swapped.returncode, (folder / "in.onnx").read_bytes()) == (1, before)
    assert "are IN and OUT swapped?" in swapped.stderr
    address = call(folder, "https://example.com/in.onnx", "in.onnx", *quick)
    assert (address.returncode, "download" in address.stderr) == (1, True)
    assert call(folder, "in.onnx", "other.onnx", *quick, "--force").returncode == 0
    assert (folder / "other.onnx").read_bytes() == (folder / "out.onnx").read_bytes()
    (folder / "empty.onnx").touch()
    assert call(folder, "in.onnx", "empty.onnx", *quick).returncode == 0, "made by mktemp, say"


def test_examples_of_the_help_are_right(folder: Path) -> None:
    from onnx_udfc.cli.commands import app
    from onnx_udfc.cli.examples import EXAMPLES

    for command, lines in EXAMPLES.items():
        shown = call(folder, command, "--help").stdout
        assert len(lines) == 3
        for line, what in lines:
            assert line in shown
            assert " ".join(what.split()) in " ".join(shown.split())
            words = shlex.split(line)[1:]
            app.commands[command].make_context(command, words[1:] if words[0] == command else words)


def test_an_unusable_result_is_told_on_standard_error_whatever_is_printed(folder: Path) -> None:
    shutil.copy(MODELS / "digits_resnet_folded.onnx", folder / "in.onnx")
    options = ("--method", "none", "--prune", "0.9", "--bits", "2", "--threads", "1")
    for words in ((), ("--quiet",), ("--json",)):
        done = call(folder, "in.onnx", "out.onnx", *options, "--report", "r.json", *words)
        report = json.loads((folder / "r.json").read_text())
        assert done.returncode == 0
        assert report["verdict"] == "unusable"
        lines = [line for line in done.stderr.splitlines() if "warning:" in line]
        assert len(lines) == 1
        assert "unusable" in lines[0]
    gated = call(folder, "in.onnx", "other.onnx", *options, "--require", "verdict=good", "--quiet")
    assert gated.returncode == 3
    assert "verdict=good (is unusable)" in gated.stderr
    assert not (folder / "other.onnx").exists()


def test_a_system_that_allows_no_more_threads_is_no_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    def call() -> None:
        raise RuntimeError("can't start new thread")

    assert run(call, debug=False) == 1
    assert "raise its limits" in capsys.readouterr().err
