"""What is refused before any work, what the outputs replace, and streams that take nothing."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import onnx
import pytest

from tests.command_line import CLI, PRECIOUS, SHAPES, call, names, small_classifier

QUICK = ("--bits", "8", "--method", "none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with in.onnx."""
    onnx.save(small_classifier(), tmp_path / "in.onnx")
    return tmp_path


def refused(folder: Path, reason: str, *words: str) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = call(folder, "in.onnx", *words, *QUICK)
    assert done.returncode == 1, done.stderr
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "internal error" not in done.stderr
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_report_says_what_was_read_and_what_was_written(folder: Path) -> None:
    assert call(folder, "in.onnx", "small.onnx", "--report", "r.json", *QUICK).returncode == 0
    report = json.loads((folder / "r.json").read_text(encoding="utf-8"))
    for key, path in (("source", folder / "in.onnx"), ("result", folder / "small.onnx")):
        content = path.read_bytes()
        assert report[key] == {"name": path.name, "sha256": sha256(content).hexdigest(), "bytes": len(content)}
    assert report["versions"]["onnx"] == onnx.__version__
    assert datetime.fromisoformat(report["created"]).utcoffset() == timedelta(0)
    again = shlex.split(report["command"])[1:]
    assert again[:2] == ["in.onnx", "small.onnx"]
    assert call(folder, "in.onnx", "again.onnx", *again[2:]).returncode == 0
    assert (folder / "again.onnx").read_bytes() == (folder / "small.onnx").read_bytes()


def test_standard_output_is_wrong_usage(folder: Path) -> None:
    done = call(folder, "in.onnx", "-", *QUICK)
    assert done.returncode == 2
    assert "models are files" in done.stderr
    assert not (folder / "-").exists()


def test_out_must_be_a_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "to_pipe").symlink_to("pipe")
    (folder / "round").symlink_to("round")
    for out in ("pipe", "to_pipe", "/dev/null"):
        refused(folder, "is a device, a pipe or a socket", out)
    refused(folder, "round: ", "round")
    refused(folder, "too long", "x" * 300)
    assert (folder / "pipe").is_fifo()
    assert Path("/dev/null").is_char_device()


def test_reports_are_refused_before_any_work(folder: Path) -> None:
    (folder / "r.json").mkdir()
    (folder / "in.json").write_bytes((folder / "in.onnx").read_bytes())
    (folder / "link.html").symlink_to("in.onnx")
    refused(folder, "r.json: is a folder", "out.onnx", "--report", "r.json")
    refused(folder, "named twice", "out.onnx", "--report", "a.json", "--report", "./a.json")
    refused(folder, "named twice", "out.json", "--report", "out.json")
    refused(folder, "is IN", "out.onnx", "--report", "link.html")
    done = call(folder, "in.json", "out.onnx", "--report", "in.json", *QUICK)
    assert (done.returncode, "is IN" in done.stderr) == (1, True)
    assert (folder / "in.json").read_bytes() == (folder / "in.onnx").read_bytes()


def test_a_link_stays_a_link_and_permissions_stay(folder: Path) -> None:
    (folder / "real.onnx").write_bytes(PRECIOUS)
    (folder / "real.onnx").chmod(0o640)
    (folder / "out.onnx").symlink_to("real.onnx")
    assert call(folder, "in.onnx", "out.onnx", *QUICK).returncode == 0
    assert (folder / "out.onnx").is_symlink()
    assert (folder / "real.onnx").stat().st_mode & 0o777 == 0o640
    onnx.checker.check_model(onnx.load(folder / "real.onnx"))


@pytest.mark.parametrize("planted", ["r.json.part", ".r.json.part", "out.onnx.part"])
def test_links_that_lie_in_the_way_are_not_followed(folder: Path, planted: str) -> None:
    (folder / "victim").write_bytes(b"precious")
    (folder / planted).symlink_to("victim")
    assert call(folder, "in.onnx", "out.onnx", "--report", "r.json", *QUICK).returncode == 0
    assert (folder / "victim").read_bytes() == b"precious"
    assert names(folder) == {"in.onnx", "out.onnx", "r.json", "victim", planted}


def shell(folder: Path, words: str, **env: str) -> subprocess.CompletedProcess[str]:
    line = f"{CLI[0]} -m onnx_udfc {words}"
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=100, check=False
    )


COMPRESS = "in.onnx out.onnx --bits 8 --method none --report r.json"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (">/dev/full", "warning: standard output cannot be written (No space left on device)"),
        ("--json >/dev/full", "warning: standard output cannot be written (No space left on device)"),
        (">&-", ""),
        ("2>/dev/full", ""),
        ("2>&-", ""),
        ("<&- >&- 2>&-", ""),
    ],
)
def test_after_the_move_no_stream_changes_the_exit_code(folder: Path, where: str, said: str) -> None:
    done = shell(folder, f"{COMPRESS} --verbose {where}")
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert names(folder) == {"in.onnx", "out.onnx", "r.json"}
    onnx.checker.check_model(onnx.load(folder / "out.onnx"))
    assert json.loads((folder / "r.json").read_text())["options"]["bits"] == 8


def test_a_closed_pipe_does_not_change_the_exit_code(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [*CLI, *COMPRESS.split()]
    done = subprocess.run(words, cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_only_printed_fails_where_it_cannot_be(folder: Path) -> None:
    done = shell(folder, "inspect in.onnx >/dev/full")
    assert done.returncode == 1
    assert done.stderr == "onnx-udfc: standard output cannot be written (No space left on device)\n"
    assert shell(folder, "inspect in.onnx >&-").returncode == 0


ODD = "[/]\x1b[31m[bold]\u202e名\x07é:smile:"


@pytest.fixture
def odd(folder: Path) -> Path:
    """The same network with a name that terminals, markup and encodings stumble over, in place of every name."""
    model = small_classifier()
    for node in model.graph.node:
        node.name = f"{node.op_type}{ODD}{node.output[0]}"
    onnx.save(model, folder / "in.onnx")
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("words", [COMPRESS + " --verbose --attribution --report r.html", "inspect in.onnx"])
def test_names_are_text(odd: Path, encoding: str, words: str) -> None:
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([*CLI, *words.split()], cwd=odd, env=env, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    shown = (done.stdout + done.stderr).decode(encoding)
    assert not set("\x1b\x07\u202e") & set(shown)
    flat = "".join(shown.split())  # tables fold
    assert r"[/]\x1b[31m[bold]\u202e" in flat
    assert ":smile:" in flat
    if "r.html" in words:
        page = (odd / "r.html").read_text(encoding="utf-8")
        assert not set("\x1b\x07\u202e") & set(page)
        assert r"[/]\x1b[31m[bold]\u202e名\x07é" in page


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_holds_the_very_names_in_any_encoding(odd: Path, encoding: str) -> None:
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([*CLI, "inspect", "in.onnx", "--json"], cwd=odd, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not set("\x1b\x07\u202e") & set(done.stdout.decode(encoding))
    assert f"Conv{ODD}a" in [layer["name"] for layer in json.loads(done.stdout.decode(encoding))["layers"]]


def test_error_messages_show_names_plainly(folder: Path) -> None:
    model = small_classifier()
    model.graph.initializer[0].name = f"w{ODD}"
    model.graph.initializer[0].dims[0] = SHAPES["w1"][0] + 1
    model.graph.node[0].input[1] = f"w{ODD}"
    onnx.save(model, folder / "in.onnx")
    done = call(folder, "in.onnx", "out\x1b[2J.onnx", *QUICK)
    assert done.returncode == 1
    assert r"\x1b[31m" in done.stderr
    assert "\x1b" not in done.stderr
    done = call(folder, "none\x1b[2J.onnx", "out.onnx", *QUICK)
    assert r"none\x1b[2J.onnx" in done.stderr


def test_out_is_not_a_file_of_weights_of_in(folder: Path) -> None:
    onnx.save(small_classifier(), folder / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    refused(folder, "holds weights of IN", "w.bin")
    (folder / "w.bin").rename(folder / "out.onnx.data")
    onnx.save(
        small_classifier(), folder / "in.onnx", save_as_external_data=True, location="out.onnx.data", size_threshold=0
    )
    refused(folder, "holds weights of IN", "out.onnx")
    assert call(folder, "in.onnx", "other.onnx", *QUICK).returncode == 0
