"""The package as it is published: the whole repository in its source, and what it installs runs the pages' commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from tests.command_line import small_classifier

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))))
LEFT_OUT = (
    ".git",
    ".venv",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
)
SMALLER = {"--images": "test.npz", "--labelled": "test.npz"}
QUICK = ("--prune", "--bits", "--activations")  # lists of a sweep: their first settings will do


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, timeout=300, check=False)


def build(what: str, source: Path, into: Path) -> Path:
    """Build by the backend that pyproject.toml names, without a network."""
    code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(into)!r}))"
    done = run(sys.executable, "-c", code, cwd=source)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*LEFT_OUT))
    with tarfile.open(build("sdist", folder / "checkout", folder)) as archive:
        archive.extractall(folder, filter="data")
    (found,) = folder.glob("onnx_udfc-*/")
    return found


@pytest.fixture(scope="session")
def installed(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs, made of the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build("wheel", unpacked, folder)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    done = run(*pip, "--target", str(folder / "site"), str(wheel), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_the_source_distribution_holds_the_repository(unpacked: Path) -> None:
    for folder in ("tests", "tools", "models", "docs", "onnx_udfc", ".ci", ".github", "conda", "examples"):
        missing = [
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and not (unpacked / path.relative_to(ROOT)).is_file()
        ]
        assert missing == []
    for name in (
        "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "CITATION.cff", "LICENSE", "SECURITY.md",
        "Dockerfile", "action.yml", ".pre-commit-hooks.yaml", "pyproject.toml",
    ):  # fmt: skip
        assert (unpacked / name).is_file()


def test_its_tests_pass(unpacked: Path) -> None:
    some = ("tests/test_escapes.py", "tests/test_rooms.py", "tests/channels/test_groups.py")
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *some, cwd=unpacked)
    assert done.returncode == 0, done.stdout


def commands(page: str) -> list[list[str]]:
    """The calls of onnx-udfc in a page's blocks of code, as words."""
    found, fenced = [], False
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        match = re.search(r"(?:^|[\s/&])onnx-udfc\s+(\S.*)$", line) if fenced or line.startswith("    ") else None
        if match and not re.search(r"pip install|\bname:", line):
            found.append(shlex.split(match.group(1), comments=True))
    return found


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def prepared(words: list[str]) -> list[str]:
    """The same call on small files of ours: what comes in is there, lists are short, what is timed is short."""
    sub = words[0] if words[0] in ("inspect", "validate", "sweep", "compress") else "compress"
    rest, taken, files = words[1:] if words[0] == sub else words, [sub], 0
    given = {"compress": ("in.onnx", "out.onnx"), "validate": ("in.onnx", "in.onnx"), "sweep": ("in.onnx", "dir")}
    option = ""
    for word in rest:
        if word.startswith("--"):
            option = word
            taken.append(word)
        elif option:
            value = "3e-1,3e-1,3e-1" if option in ("--input-mean", "--input-std") else SMALLER.get(option, word)
            value = re.split(r"[,:]", value)[0] if sub == "sweep" and option in QUICK else value
            taken.append("latency=0.9" if value.startswith("latency=") else value)  # what any machine reaches
            option = ""
        else:
            taken.append(given.get(sub, ("in.onnx",))[files])
            files += 1
    quick = {"compress": ["--image-count", "4"], "validate": ["--seconds", "0", "--no-memory"]}
    return [*taken, *quick.get(sub, []), "--quiet"]


CASES = {tuple(prepared(words)): page for page in reversed(PAGES) for words in commands(page)}  # each once


def test_commands_are_found() -> None:
    assert {page for page in PAGES if commands(page)} >= {
        "README.md", "docs/allocation.md", "docs/pipelines.md", "docs/reports.md", "docs/tutorial.md",
    }  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the pages name: models, images with labels, a configuration."""
    onnx.save(small_classifier(), tmp_path / "in.onnx")
    shutil.copy(tmp_path / "in.onnx", tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "test.npz", x=pixels, y=rng.integers(0, 5, 20))
    for i, image in enumerate(pixels):
        (tmp_path / "test" / str(i % 5)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "test" / str(i % 5) / f"{i}.png")
    (tmp_path / "udfc.toml").write_text("bits = 8\nimage-count = 4\n")
    return tmp_path


@pytest.mark.parametrize("words", CASES, ids=[f"{page}-{shlex.join(words)[:60]}" for words, page in CASES.items()])
def test_every_command_of_the_pages_runs(installed: Path, place: Path, words: tuple[str, ...]) -> None:
    if any(word.startswith("latency=") for word in words):  # which takes more than a few microseconds to be met
        shutil.copy(ROOT / "models" / "digits_resnet_folded.onnx", place / "in.onnx")
    script = installed / "bin" / "onnx-udfc"
    done = run(sys.executable, str(script), *words, cwd=place, PYTHONPATH=str(installed))
    if any(word.startswith("dask://") for word in words):  # there is no such machine, and no Dask but in an extra
        assert done.returncode == 1
        assert re.fullmatch(r"onnx-udfc: --executor dask://HOST:8786: [^\n]+\n", done.stderr)
        return
    # a gate may not be met by a network with random weights; anything else must have worked
    assert done.returncode in ((0, 3) if "--require" in words else (0,)), done.stderr
    assert "required but not met" in done.stderr or done.returncode == 0, done.stderr


def on_path(installed: Path, place: Path) -> dict[str, str]:
    """Environment of a shell that finds the installed command."""
    programs = place / "programs"
    programs.mkdir()
    script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(installed / "bin" / "onnx-udfc"))} "$@"\n'
    (programs / "onnx-udfc").write_text(script)
    (programs / "onnx-udfc").chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(installed)}


def test_every_program_of_the_pages_runs(installed: Path, place: Path) -> None:
    """All in one process, each with names of its own; those of extending.md have a test of their own."""
    programs = [text for page in PAGES if page != "docs/extending.md" for text in blocks(page, "python")]
    assert len(programs) >= 3
    (place / "all.py").write_text("".join(f"exec({text!r}, {{}})\n" for text in programs))
    done = run(sys.executable, "all.py", cwd=place, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    assert (place / "out.onnx").is_file()
    assert (place / "small.onnx").is_file()


def test_every_workflow_of_the_pages_runs(installed: Path, place: Path) -> None:
    steps = [step for page in PAGES for text in blocks(page, "yaml") for step in yaml.safe_load(text)]
    lines = [step["run"] for step in steps if "run" in step and not step["run"].startswith("pip install")]
    assert len(lines) >= 3
    env = on_path(installed, place)
    for line in lines:
        if "validate" in line and not (place / "model.small.onnx").exists():  # a gate before it was not met
            shutil.copy(place / "in.onnx", place / "model.small.onnx")
        done = run("bash", "-euo", "pipefail", "-c", line, cwd=place, **env)
        assert done.returncode in (0, 3), done.stderr
        assert "required but not met" in done.stderr or done.returncode == 0, done.stderr
    assert (place / "validation.json").is_file()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_makefile_of_the_pages_runs(installed: Path, place: Path) -> None:
    (text,) = (text for page in PAGES for text in blocks(page, "make"))
    (place / "Makefile").write_text(text)
    env = on_path(installed, place)
    done = run("make", "model.small.onnx", cwd=place, **env)
    assert done.returncode == 0, done.stderr
    assert {"model.small.onnx", "model.html"} <= {path.name for path in place.iterdir()}
    checked = run("make", "check", cwd=place, **env)
    assert checked.returncode == 0 or "required but not met: accuracy" in checked.stderr, checked.stderr


def test_what_is_installed_is_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import onnx_udfc; print(onnx_udfc.__file__)"
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.stdout.strip() == str(installed / "onnx_udfc" / "__init__.py")


def test_without_olive_its_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "olive.py").write_text("raise ModuleNotFoundError('none', name='olive')")
    words, env = [sys.executable, "-m", "onnx_udfc.olive"], os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "onnx-udfc: there is no olive here; pip install 'onnx-udfc[olive]'\n"
