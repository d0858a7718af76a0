"""The command line as users and pipelines meet it: real processes, exit codes, what is printed, what is left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

CLI = [sys.executable, "-m", "onnx_udfc.cli"]
TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,8,8] x) => (float[N,5] y) {
   a = Conv <pads=[1,1,1,1]> (x, w1)
   r = Relu (a)
   b = Conv <pads=[1,1,1,1]> (r, w2)
   s = Relu (b)
   p = GlobalAveragePool (s)
   f = Flatten (p)
   y = Gemm (f, w3)
}
"""
SHAPES = {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 5)}


@pytest.fixture
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    proto = parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


@pytest.fixture
def folder(tmp_path: Path, model: onnx.ModelProto) -> Path:
    """A folder with in.onnx."""
    onnx.save(model, tmp_path / "in.onnx")
    return tmp_path


def call(folder: Path, *words: str, **given: Any) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | given
    return subprocess.run([*CLI, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_help_is_quick_and_shows_the_main_options(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        start = time.perf_counter()
        done = call(tmp_path, "--help")
        took.append(time.perf_counter() - start)
    for word in ("--prune", "--bits", "--require", "inspect", "validate", "sweep"):
        assert word in done.stdout
    assert done.returncode == 0
    assert min(took) <= 0.5


@pytest.mark.parametrize("command", ["compress", "inspect", "validate", "sweep"])
def test_every_command_has_help_and_every_option_a_sentence(tmp_path: Path, command: str) -> None:
    done = call(tmp_path, command, "--help")
    assert done.returncode == 0
    options = re.findall(r"^  (?:-\w, )?--[\w-]+.*$", done.stdout, re.MULTILINE)
    assert len(options) > 5


def test_no_arguments_is_help_and_version_is_the_package_s(tmp_path: Path) -> None:
    assert "Usage:" in call(tmp_path).stdout
    assert re.search(r"\d+\.\d+\.\d+", call(tmp_path, "--version").stdout)


@pytest.mark.parametrize(
    ("typed", "offered"), [("--pr", "--prune"), ("ins", "inspect"), ("in.onnx out.onnx --bu", "--budget")]
)
def test_completion_offers_the_default_command_s_options(tmp_path: Path, typed: str, offered: str) -> None:
    words = ["onnx-udfc", *typed.split()]
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_ONNX_UDFC_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv[0] = 'onnx-udfc'; from onnx_udfc.cli import main; main()"
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
    (("in.onnx", "out.onnx", "--prune", "1.0"), 1),
    (("in.onnx", "out.onnx", "--prune", "-0.5"), 1),
    (("in.onnx", "out.onnx", "--bits", "9"), 1),
    (("in.onnx", "out.onnx", "--bits", "many"), 2),
    (("in.onnx", "out.onnx", "--target", "tpu"), 2),
    (("in.onnx", "out.onnx", "--no-such-option"), 2),
    (("in.onnx", "out.onnx", "extra"), 2),
    (("in.onnx",), 2),
    (("in.onnx", "out.onnx", "--input-range", "1"), 1),
    (("in.onnx", "out.onnx", "--budget", "macs"), 2),
    (("in.onnx", "out.onnx", "--budget", "macs=lots"), 1),
    (("in.onnx", "out.onnx", "--require", "agreement"), 1),
    (("in.onnx", "out.onnx", "--config", "none.toml"), 1),
    (("in.onnx", "out.onnx", "--report", "report.txt"), 1),
    (("in.onnx", "out.onnx", "--report", "nowhere/report.json"), 1),
    (("in.onnx", "nowhere/out.onnx"), 1),
    (("in.onnx", "in.onnx", "--prune", "0.5"), 1),
    (("in.onnx", ".", "--prune", "0.5"), 1),
    (("in.onnx", "out.onnx", "--calibrate", "nowhere"), 1),
    (("in.onnx", "out.onnx", "--activations", "8", "--bits", "8", "--target", "cuda"), 1),
    (("inspect", "missing.onnx"), 1),
    (("validate", "in.onnx", "missing.onnx"), 1),
    (("validate", "in.onnx", "in.onnx", "--require", "joy>=1"), 1),
    (("sweep", "in.onnx", "dir", "--prune", "0.1:x"), 1),
]


@pytest.mark.parametrize(("words", "code"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_refusals_are_one_line_and_leave_everything_as_it_was(folder: Path, words: tuple[str, ...], code: int) -> None:
    (folder / "out.onnx").write_bytes(b"precious")
    before = (folder / "in.onnx").read_bytes()
    done = call(folder, *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("onnx-udfc: ")
    assert "internal error" not in done.stderr
    assert (folder / "out.onnx").read_bytes() == b"precious"
    assert (folder / "in.onnx").read_bytes() == before
    assert names(folder) == {"in.onnx", "out.onnx"}


@pytest.mark.parametrize("kind", ["truncated", "random", "empty", "nan"])
@pytest.mark.parametrize("command", ["compress", "inspect", "validate"])
def test_bad_models_are_refused_in_one_line(folder: Path, model: onnx.ModelProto, kind: str, command: str) -> None:
    bad = damage(folder, model, kind)
    words = {"inspect": [bad], "validate": ["in.onnx", bad], "compress": [bad, "out.onnx", "--bits", "8"]}[command]
    (folder / "out.onnx").write_bytes(b"precious")
    done = call(folder, command, *words)
    if kind == "nan" and command == "inspect":
        assert done.returncode in (0, 1)
        return
    assert done.returncode in (1, 3), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "internal error" not in done.stderr
    assert (folder / "out.onnx").read_bytes() == b"precious"


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
    (folder / "out.onnx").write_bytes(b"precious")
    options = ("--method", "udfc", "--prune", "0.5", "--bits", "8", "--report", "r.json", "--quiet")
    done = call(folder, "in.onnx", "out.onnx", *options, "--require", gate)
    assert done.returncode == code, done.stderr
    assert ((folder / "out.onnx").read_bytes() == b"precious") is (code == 3)
    assert (folder / "r.json").exists() is (code == 0)
    assert len(done.stderr.splitlines()) == (code == 3)
    assert (gate.split(">")[0].split("<")[0] in done.stderr) is (code == 3)


def test_gates_of_validate(folder: Path) -> None:
    quick = ("--seconds", "0", "--no-memory", "--quiet")
    assert call(folder, "validate", "in.onnx", "in.onnx", *quick, "--require", "agreement>=1").returncode == 0
    done = call(
        folder, "validate", "in.onnx", "in.onnx", *quick, "--require", "agreement>=1", "--require", "accuracy>=0.9"
    )
    assert done.returncode == 3
    assert "accuracy>=0.9 (is not measured)" in done.stderr


def schema() -> Any:
    return json.loads(resources.files("onnx_udfc").joinpath("report.schema.json").read_text(encoding="utf-8"))


def test_json_is_the_report_and_nothing_else(folder: Path) -> None:
    done = call(folder, "in.onnx", "out.onnx", "--prune", "0.5", "--bits", "4", "--json", "--report", "r.json")
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema())
    assert done.stderr == ""
    assert report == json.loads((folder / "r.json").read_text(encoding="utf-8"))
    assert report["after"]["bytes"] == (folder / "out.onnx").stat().st_size
    assert report["options"]["prune"] == 0.5


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "in.onnx"),
        ("validate", "in.onnx", "in.onnx", "--seconds", "0.2"),
    ],
)
def test_json_of_the_other_commands(folder: Path, words: tuple[str, ...]) -> None:
    done = call(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    assert "tool" in json.loads(done.stdout)
    assert done.stderr == ""


def test_html_report_shows_the_losses(folder: Path) -> None:
    done = call(folder, "in.onnx", "out.onnx", "--prune", "0.5", "--bits", "4", "--report", "r.html", "--quiet")
    assert done.returncode == 0, done.stderr
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert "Which layer lost what" in page
    assert "Weights before and after" in page
    assert len(page) < 1_000_000


def test_config_is_read_and_the_command_line_wins(folder: Path) -> None:
    (folder / "c.toml").write_text('prune = 0.5\nbits = 4\nmethod = "none"\nreport = ["r.json"]\nquiet = true\n')
    done = call(folder, "in.onnx", "out.onnx", "--config", "c.toml", "--bits", "8")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    options = json.loads((folder / "r.json").read_text(encoding="utf-8"))["options"]
    assert (options["prune"], options["bits"], options["method"]) == (0.5, 8, "none")
    printed = call(folder, "--config", "c.toml", "--print-config").stdout
    (folder / "d.toml").write_text(printed)
    assert call(folder, "--config", "d.toml", "--print-config").stdout == printed
    (folder / "e.toml").write_text("pruen = 0.5\n")
    assert call(folder, "in.onnx", "x.onnx", "--config", "e.toml").returncode == 1


def test_the_input_is_replaced_only_on_demand(folder: Path) -> None:
    before = (folder / "in.onnx").stat().st_size
    (folder / "link.onnx").symlink_to(folder / "in.onnx")
    options = ("--method", "none", "--bits", "8", "--quiet")
    assert call(folder, "in.onnx", "link.onnx", *options).returncode == 1
    assert (folder / "in.onnx").stat().st_size == before
    assert call(folder, "in.onnx", "in.onnx", "--overwrite-input", *options).returncode == 0
    assert (folder / "in.onnx").stat().st_size < before


def test_the_same_bytes_twice_and_from_python(folder: Path, model: onnx.ModelProto) -> None:
    from onnx_udfc import Options, compress

    for name in ("a.onnx", "b.onnx"):
        assert (
            call(folder, "in.onnx", name, "--prune", "0.5", "--bits", "4", "--threads", "1", "--quiet").returncode == 0
        )
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    options = Options(prune=0.5, bits=4, threads=1)
    for source in (folder / "in.onnx", (folder / "in.onnx").read_bytes(), model):
        compress(source, options).save(folder / "c.onnx")
        assert (folder / "c.onnx").read_bytes() == (folder / "a.onnx").read_bytes()


def test_verbose_speaks_on_standard_error_only(folder: Path) -> None:
    done = call(folder, "in.onnx", "out.onnx", "--prune", "0.5", "--json", "--verbose")
    json.loads(done.stdout)
    assert done.stderr == ""
    done = call(folder, "in.onnx", "out.onnx", "--prune", "0.5", "--verbose")
    assert len(done.stderr.splitlines()) >= 3
    assert "a" in [line.strip() for line in done.stderr.splitlines()] or "Conv" in done.stderr


def test_debug_gives_the_traceback(folder: Path) -> None:
    done = call(folder, "missing.onnx", "out.onnx", "--bits", "8", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def in_terminal(folder: Path, *words: str, columns: int = 80, **given: str) -> str:
    """Run on a terminal of its own and return everything it shows."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = (
        {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "CI", "NO_COLOR")}
        | {"TERM": "xterm-256color"}
        | given
    )
    process = subprocess.Popen([*CLI, *words], cwd=folder, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=60) == 0, shown
    return shown.decode("utf-8", "replace")


def test_progress_on_a_terminal(folder: Path) -> None:
    shown = in_terminal(folder, "in.onnx", "out.onnx", "--prune", "0.5", "--bits", "4")
    assert "original network" in shown
    assert "\x1b[" in shown


def test_no_color_and_a_narrow_terminal(folder: Path) -> None:
    shown = in_terminal(folder, "inspect", "in.onnx", columns=40, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert max(len(line) for line in plain.splitlines()) <= 40
    assert "not prunable" in plain


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_partial_file(tmp_path: Path, models: Path, how: signal.Signals) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    words = [str(models / "digits_resnet_bn.onnx"), "out.onnx", "--prune", "0.5", "--bits", "4", "--verbose"]
    process = subprocess.Popen([*CLI, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline()  # a stage has begun
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=120)
    assert stdout == ""
    assert out.read_bytes() == b"precious"
    assert names(tmp_path) == {"out.onnx"}
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "Traceback" not in stderr
        assert stderr.splitlines()[-1] == "onnx-udfc: interrupted; nothing was written"
