"""Builds what is uploaded, source distribution and wheel, and checks both.

    python -m tools release --into dist [--final]

Links of README.md that are relative here are absolute there, by the repository's address in `project.urls` of
pyproject.toml: a page on an index has no neighbours. The wheel is built from the source distribution. Needs the extra
`release`. With --final an address that is still a placeholder is refused.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tools.places import ROOT

PLACEHOLDER = "OWNER"
MOST_BYTES = 3_000_000  # of the wheel
LEFT_OUT = (
    ".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "site", "out", ".hypothesis", ".mypy_cache",
    ".ruff_cache", ".pytest_cache",
)  # fmt: skip
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def address(project: Path = ROOT) -> str:
    """Return the repository's address."""
    told = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    return str(told["project"]["urls"]["Repository"]).rstrip("/")


def absolute_links(text: str, repository: str, reference: str) -> str:
    """Return Markdown whose relative links lead into the repository.

    Args:
        text: A page that lies in the repository's root.
        repository: Its address, as GitHub has it.
        reference: Branch or tag that the links are to show.
    """

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({repository}/{kind}/{reference}/{target})"

    return LINK.sub(link, text)


def checkout(folder: Path, reference: str) -> Path:
    """Return a copy of the repository whose README has absolute links."""
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    page = copy / "README.md"
    page.write_text(absolute_links(page.read_text(encoding="utf-8"), address(), reference), encoding="utf-8")
    return copy


def faults(into: Path) -> list[str]:
    """Return what is wrong with the files in a folder, each in some lines."""
    (wheel,), files = into.glob("*.whl"), sorted(map(str, into.iterdir()))
    found = []
    checks: Sequence[Sequence[str]] = (
        ("twine", "check", "--strict", *files),
        ("check_wheel_contents", "--no-config", str(wheel)),
    )
    for words in checks:
        done = subprocess.run((sys.executable, "-m", *words), capture_output=True, text=True, check=False)
        print(done.stdout.strip())
        found += [done.stdout + done.stderr] if done.returncode else []
    if wheel.stat().st_size > MOST_BYTES:
        found.append(f"{wheel.name} has {wheel.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
    return found


def main() -> None:
    """Build and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "dist")
    parser.add_argument("--reference", default="main", help="branch or tag that links lead to [main]")
    parser.add_argument("--final", action="store_true", help="for an upload: refuse a placeholder for an address")
    args = parser.parse_args()
    if args.final and PLACEHOLDER in address():
        raise SystemExit(f"{address()}: put the owner of the repository into project.urls of pyproject.toml")
    args.into.mkdir(parents=True, exist_ok=True)
    if any(args.into.iterdir()):
        raise SystemExit(f"{args.into} is not empty; name another folder")
    with tempfile.TemporaryDirectory() as folder:
        copy = checkout(Path(folder), args.reference)
        subprocess.run(
            (sys.executable, "-m", "build", "--outdir", str(args.into), str(copy)),
            check=True,
            stdout=subprocess.DEVNULL,
        )
    for path in sorted(args.into.iterdir()):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    wrong = faults(args.into)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
