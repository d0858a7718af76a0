"""What the command line prints and writes: JSON, HTML, configuration, terminals; and what an interrupt leaves."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest

from tests.command_line import CLI, call


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


@pytest.mark.parametrize("command", ["compress", "inspect", "validate"])
def test_what_libraries_print_stays_out_of_the_json(tmp_path: Path, assets: Path, command: str) -> None:
    """The checker warns of experimental operators on file descriptor 1."""
    odd = str(assets / "zoo" / "style_candy.onnx")
    words = {"compress": [odd, "out.onnx", "--bits", "8", "--method", "none", "--images", "1"], "inspect": [odd]}
    quick = ["validate", odd, odd, "--seconds", "0", "--no-memory", "--limit", "1"]
    done = call(tmp_path, *([command, *words[command]] if command in words else quick), "--json")
    assert done.returncode == 0, done.stderr
    assert "tool" in json.loads(done.stdout)


def test_html_report_of_a_network_without_layers(tmp_path: Path, assets: Path) -> None:
    odd = str(assets / "zoo" / "loop_control_flow.onnx")
    done = call(tmp_path, odd, "out.onnx", "--bits", "8", "--method", "none", "--report", "r.html", "--quiet")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").exists()


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
    assert call(folder, "in.onnx", "x.onnx", "--config", "e.toml").returncode == 2


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
