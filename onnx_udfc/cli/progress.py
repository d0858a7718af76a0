"""Progress on a terminal: stage, layer and time left on standard error; nothing in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from onnx_udfc.escapes import visible
from onnx_udfc.progress import Callbacks, Silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def _line(text: str) -> None:
    """Write a line to standard error, if anybody takes it: nothing depends on it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{visible(text)}\n")


class Lines(Silent):
    """Stages, layers and notes as plain lines on standard error: for --verbose in a pipe."""

    def stage(self, name: str, total: int | None) -> None:
        """Say which stage begins."""
        _line(name if total is None else f"{name} ({total})")

    def advance(self, n: int = 1, detail: str = "") -> None:
        """Write what was done, where it has a name."""
        if detail:
            _line(f"  {detail}" if n == 1 else f"  {detail} ({n})")

    def note(self, text: str) -> None:
        """Write a line."""
        _line(f"  {text}")


class Bars:
    """A bar for each stage, which disappears when all are done."""

    def __init__(self, progress: Progress, verbose: bool) -> None:
        self._progress = progress
        self._verbose = verbose
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None) -> None:
        """End the last stage and begin one."""
        self._finish()
        self._task = self._progress.add_task(name, total=total, detail="")

    def advance(self, n: int = 1, detail: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, advance=n, detail=visible(detail))
        if self._verbose and detail:
            self.note(f"  {detail}")

    def note(self, text: str) -> None:
        """Write a line above the bars, if asked for detail."""
        if self._verbose:
            self._progress.console.print(visible(text), markup=False, highlight=False)

    def done(self) -> None:
        """End the last stage."""
        self._finish()

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, visible=False)
            self._task = None


class Muted:
    """Context in which nothing written by compiled libraries reaches standard output, which is the report's alone."""

    def __init__(self) -> None:
        self._saved = -1

    def __enter__(self) -> None:
        """Turn the file descriptor away; Python's own printing comes after."""
        sys.stdout.flush()
        self._saved = os.dup(1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Turn it back."""
        os.dup2(self._saved, 1)
        os.close(self._saved)


class Shown(Muted):
    """Context that gives the callbacks that fit: bars on a terminal, lines when verbose, silence otherwise."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        super().__init__()
        self._quiet = quiet
        self._verbose = verbose
        self._progress: Progress | None = None

    def __enter__(self) -> Callbacks:  # type: ignore[override]  # it is the outer context that gives nothing
        """Start the bars, if there are any."""
        super().__enter__()
        if self._quiet or not sys.stderr.isatty():
            return Lines() if self._verbose and not self._quiet else Silent()
        self._progress = _progress()
        self._progress.start()
        return Bars(self._progress, self._verbose)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Clear the bars."""
        if self._progress is not None:
            with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                self._progress.stop()
        super().__exit__(kind, error, at)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    detail = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[detail]}", table_column=detail, markup=False),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
