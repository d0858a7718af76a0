"""What the command line refuses before any work, because it is probably not what was meant."""

from __future__ import annotations

import contextlib
import difflib
import mmap
from collections.abc import Collection, Sequence
from pathlib import Path

import click

from onnx_udfc.errors import RequestError
from onnx_udfc.model.foreign import refuse_path, refuse_url

MARK = b"onnx_udfc.version"  # the key of the metadata that every result has


def check_replaced(source: str, out: str) -> None:
    """Refuse to take the place of a file that this tool did not write: the arguments may be swapped.

    Raises:
        RequestError: OUT is such a file.
    """
    path = Path(out)
    if not path.is_file() or path.stat().st_size == 0 or is_result(path):
        return
    if is_result(Path(source)):
        raise RequestError(
            f"{out} is there, was not written by onnx-udfc, and {source} was: are IN and OUT swapped?"
            " --force replaces it"
        )
    raise RequestError(f"{out} is there and was not written by onnx-udfc; name another file, or add --force")


def check_swapped(source: str, out: str) -> None:
    """Refuse an IN that is not there beside an OUT that is.

    Raises:
        ModelError: IN is an address.
        RequestError: It is so.
    """
    refuse_url(Path(source))
    if not Path(source).exists() and Path(out).is_file():
        raise RequestError(f"{source}: no such file, and {out} is there: are IN and OUT swapped?")


def check_there(*models: str) -> None:
    """Refuse models that are no files, before what takes time to import.

    Raises:
        ModelError: One is not there, a folder, a device or an address.
    """
    for model in models:
        refuse_path(Path(model))


def is_result(path: Path) -> bool:
    """Whether a file was written by this tool; False for what cannot be read."""
    with (
        contextlib.suppress(OSError, ValueError),  # ValueError: an empty file cannot be mapped
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.rfind(MARK) >= 0
    return False


def check_command(words: Sequence[str], commands: Collection[str]) -> None:
    """Refuse a first word that is nearly a command, or a plain one, and surely no file.

    Raises:
        click.UsageError: The command that was probably meant, or all of them.
        RequestError: All of them, where OUT follows: the word is IN, which is not there.
    """
    word = words[0]
    near = difflib.get_close_matches(word.lower(), commands, 1, cutoff=0.7)
    if near and not Path(word).suffix and not Path(word).exists():
        raise click.UsageError(f"there is no command or file {word!r}; did you mean {near[0]}?")
    if word.isalpha() and not Path(word).exists():
        line = f"there is no command or file {word!r}; commands are {', '.join(sorted(commands))}"
        more = [word for word in words[1:3] if not word.startswith("-")]
        raise RequestError(line) if len(more) == 1 else click.UsageError(f"{line}.")


def check_argument(value: str | None, name: str) -> str:
    """Return an argument that must be there and be a file.

    Raises:
        click.UsageError: It is missing, or a dash.
    """
    if value is None:
        raise click.UsageError(f"Missing argument '{name}'.")
    if not value:
        raise click.UsageError(f"{name} is an empty word; name a file.")
    if value == "-":
        raise click.UsageError(f"{name} is -: models are files, not streams; name a file, or ./- for one of that name.")
    return value
