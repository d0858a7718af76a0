"""Lists the tools, or starts one by its name, whichever folder it is in.

python -m tools
python -m tools evaluate out.onnx --like resnet56_cifar10_bn.onnx
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def commands() -> dict[str, Path]:
    """Name → file of everything that can be started, in the order of the folders."""
    files = sorted(HERE.glob("*/*.py"))
    return {path.stem: path for path in files if '__name__ == "__main__"' in path.read_text(encoding="utf-8")}


def _about(path: Path) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main(words: list[str]) -> None:
    """Starts `words[0]` with the rest as its arguments; prints what there is where no word is given.

    Of a tool that takes no arguments, prints what it does where one is given.

    Raises:
        SystemExit: there is no tool of that name.
    """
    found = commands()
    if not words:
        for folder in dict.fromkeys(path.parent for path in found.values()):
            print(f"{folder.name}/ {_about(folder / '__init__.py')}")
            print(*(f"  {name:<18} {_about(path)}" for name, path in found.items() if path.parent == folder), sep="\n")
        return
    if words[0] not in found:
        raise SystemExit(f"{words[0]}: not a tool; there are {', '.join(found)}")
    text = found[words[0]].read_text(encoding="utf-8")
    if words[1:] and "ArgumentParser(" not in text and "parser(" not in text:
        print(ast.get_docstring(ast.parse(text)))
        return
    sys.argv = words
    runpy.run_module(f"tools.{found[words[0]].parent.name}.{words[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
