"""What goes with the package where it is published: addresses, versions and dependencies agree, and forms work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tools.pack.release import LINK, absolute_links, address

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIGITS = ROOT / "models" / "digits_resnet_folded.onnx"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def loaded(name: str) -> Any:
    return yaml.safe_load(text(name))


def test_one_address_stands_everywhere() -> None:
    urls = PROJECT["urls"]
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert loaded("CITATION.cff")["repository-code"] == urls["Repository"]
    assert loaded("conda/recipe.yaml")["about"]["repository"] == urls["Repository"]


def test_one_version_stands_everywhere() -> None:
    assert loaded("CITATION.cff")["version"] == PROJECT["version"]
    assert loaded("conda/recipe.yaml")["context"]["version"] == PROJECT["version"]


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    recipe = loaded("conda/recipe.yaml")["requirements"]["run"]
    told = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    told["python"] = PROJECT["requires-python"]
    assert {name: rest for name, _, rest in (line.partition(" ") for line in recipe)} == told


def test_links_become_absolute() -> None:
    page = "a ![p](x/p.png) [t](docs/t.md#part) [u](https://u.example/) [h](#here) [`[a]`](b)"
    assert absolute_links(page, "https://r", "v1") == (
        "a ![p](https://r/raw/v1/x/p.png) [t](https://r/blob/v1/docs/t.md#part) [u](https://u.example/) [h](#here)"
        " [`[a]`](https://r/blob/v1/b)"
    )


def test_no_link_of_the_readme_stays_relative() -> None:
    page = absolute_links(text("README.md"), address(), "main")
    assert LINK.findall(text("README.md"))
    assert [t for t in re.findall(r"\]\(([^)]+)\)", page) if not t.startswith(("https://", "#"))] == []


def test_a_placeholder_is_not_uploaded(tmp_path: Path) -> None:
    if "OWNER" not in address():
        pytest.skip("the repository has its address")
    words = (sys.executable, "-m", "tools.pack.release", "--final", "--into", str(tmp_path))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "put the owner" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_forms_for_issues_are_whole(name: str) -> None:
    form = loaded(f".github/ISSUE_TEMPLATE/{name}")
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in form["body"])


def here(path: Path, **more: str) -> dict[str, str]:
    """An environment whose `onnx-udfc` and Python are those of this test."""
    programs = path / "programs"
    programs.mkdir()
    for name, module in (("onnx-udfc", "-m onnx_udfc"), ("python", ""), ("python3", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **more}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_action_compresses_and_tells_its_outputs(tmp_path: Path) -> None:
    action = loaded("action.yml")
    install, step = action["runs"]["steps"]
    assert set(re.findall(r"\$\{\{ inputs\.(\w+) }}", str(action))) == set(action["inputs"])
    env = here(
        tmp_path, MODEL=str(DIGITS), OUTPUT="my out.onnx", OPTIONS="--bits 8 --method 'udfc' --threads 1",
        REPORT="told", GITHUB_OUTPUT=str(tmp_path / "output"), RUNNER_TEMP=str(tmp_path / "temp of a job"),
        PACKAGE="--help", PROGRAMS=str(tmp_path / "programs"),
    )  # fmt: skip
    assert set(install["env"]) | set(step["env"]) == {"PACKAGE", "PROGRAMS", "MODEL", "OUTPUT", "OPTIONS", "REPORT"}
    subprocess.run(["bash", "-c", install["run"]], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "output").read_text().startswith(f"programs={tmp_path / 'temp of a job' / 'onnx-udfc'}")
    subprocess.run(["bash", "-c", step["run"]], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=300)
    told = dict(line.split("=") for line in (tmp_path / "output").read_text().splitlines())
    assert told["verdict"] in ("good", "degraded", "unusable", "unknown")
    assert float(told["bytes"]) < 0.3
    assert {"my out.onnx", "told.json", "told.html"} <= {p.name for p in tmp_path.iterdir()}
    for options, code in (
        ("--method udfc --bits 8 --require 'sqnr>=190'", 3),
        ("--method udfc --require 'sqnr>=190", 1),
    ):
        asked = env | {"OPTIONS": options, "OUTPUT": "gated.onnx"}
        done = subprocess.run(["bash", "-c", step["run"]], cwd=tmp_path, env=asked, check=False, capture_output=True)
        assert done.returncode == code, "a gate that cannot be read was left out"
        assert not (tmp_path / "gated.onnx").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_hook_takes_many_files_and_fails_for_one_that_is_damaged(tmp_path: Path) -> None:
    (hook,) = loaded(".pre-commit-hooks.yaml")
    (tmp_path / "damaged.onnx").write_bytes(DIGITS.read_bytes()[:1000])
    assert re.search(hook["files"], "a/b.onnx")
    assert not re.search(hook["files"], "a/b.onnx.txt")
    env = here(tmp_path)
    for files, code in (((DIGITS,), 0), ((DIGITS, tmp_path / "damaged.onnx"), 1)):
        words = [*shlex.split(hook["entry"]), *map(str, files)]
        done = subprocess.run(words, cwd=tmp_path, env=env, check=False, capture_output=True, timeout=300)
        assert done.returncode == code, done.stderr
