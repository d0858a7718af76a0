"""Which room may import from which: the layout of the package as a table."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "onnx_udfc"
ANYWHERE = {"errors", "progress", "version", "options", "escapes", "interrupts", "outputs"}
LONGEST = 12  # modules in a chain of imports, from the command line down to errors; it was 27
ALLOWED = {
    "numerics": set[str](),
    "model": {"numerics"},
    "runtime": {"numerics", "model"},
    "emit": {"numerics", "model"},
    "channels": {"model", "runtime"},
    "inputs": {"numerics", "model", "runtime", "channels"},
    "evaluate": {"numerics", "model", "runtime", "channels", "inputs"},
    "repair": {"numerics", "model", "runtime", "emit", "channels", "inputs"},
    "decide": {"numerics", "model", "runtime", "emit", "channels", "inputs", "repair"},
    "cli": {"judging", "pipeline", "sweep", "sweep_grid", "sweep_table", "evaluate", "inputs", "runtime", "model"},
}


def name_of(path: Path) -> str:
    """The module's name without that of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path, types: bool = True) -> set[str]:
    """The package's modules that a file imports, inside of functions too; for types alone only where that is wanted."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = set() if types else {id(n) for block in guarded for part in block.body for n in ast.walk(part)}
    for node in (n for n in ast.walk(tree) if id(n) not in skipped):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onnx_udfc":
            start = str(node.module).partition(".")[2]
            below = {f"{start}.{alias.name}".strip(".") for alias in node.names}
            found |= {name if name in MODULES else start for name in below}
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("onnx_udfc.")}
    return found - {"", name_of(path)}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_what_it_may(name: str) -> None:
    room = name.partition(".")[0]
    if room not in ALLOWED:
        return
    rooms = {module.partition(".")[0] for module in IMPORTS[name]} - {room} - ANYWHERE
    assert rooms <= ALLOWED[room], f"{name} imports {sorted(rooms - ALLOWED[room])}"


def test_what_anybody_imports_is_light() -> None:
    for name in (name for name in MODULES if name.partition(".")[0] in ANYWHERE):
        tops = {
            line.split()[1].split(".")[0]
            for line in MODULES[name].read_text().splitlines()
            if line[:4] in ("impo", "from")
        }
        assert not tops & {"numpy", "onnx", "onnxruntime"}, name
        assert {module.partition(".")[0] for module in IMPORTS[name]} <= ANYWHERE, name


def test_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " imports ".join((*above[above.index(name) :], name))
        if name not in done:
            for other in IMPORTS[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@cache
def longest_chain(name: str) -> tuple[str, ...]:
    """The longest chain of imports from a module down, those for types alone left out."""
    chains = (longest_chain(other) for other in imported(MODULES[name], types=False))
    return (name, *max(chains, key=len, default=()))


def test_the_longest_chain_of_imports() -> None:
    chain = max((longest_chain(name) for name in MODULES), key=len)
    assert len(chain) <= LONGEST, " > ".join(chain)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_is_entered_by_its_doors(room: str) -> None:
    """Others import from the modules that a room's `__all__` names."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "every room says what it is for"
    (doors,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    outside = {other for name, found in IMPORTS.items() if name.partition(".")[0] != room for other in found}
    entered = {name.partition(".")[2] for name in outside if name.startswith(f"{room}.")}
    assert entered <= set(doors), f"{sorted(entered - set(doors))} of {room} are its own affair, or belong into __all__"
    assert all(f"{room}.{door}" in MODULES for door in doors)
