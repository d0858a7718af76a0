"""How a long computation tells what it does, to whoever listens."""

from __future__ import annotations

import logging
from typing import Protocol


class Callbacks(Protocol):
    """How a long computation tells what it does; every method returns at once."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` steps are ahead, or an unknown number."""

    def advance(self, n: int = 1, detail: str = "") -> None:
        """`n` steps of the stage are done; `detail` names the layer or image at hand."""

    def note(self, text: str) -> None:
        """Something a user who asked for detail wants to read."""

    def done(self) -> None:
        """The last stage has ended."""


class Silent:
    """Callbacks that say nothing."""

    def stage(self, name: str, total: int | None) -> None:
        """Say nothing."""

    def advance(self, n: int = 1, detail: str = "") -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def done(self) -> None:
        """Say nothing."""


class Logged(Silent):
    """Callbacks that log: stages and notes at INFO, what is done in them at DEBUG."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("onnx_udfc")

    def stage(self, name: str, total: int | None) -> None:
        """Log which stage begins."""
        self._logger.info("%s%s", name, "" if total is None else f" ({total} steps)")

    def advance(self, n: int = 1, detail: str = "") -> None:
        """Log what was done, where it has a name."""
        if detail:
            self._logger.debug("%s%s", detail, "" if n == 1 else f" ({n})")

    def note(self, text: str) -> None:
        """Log the note."""
        self._logger.info("%s", text)
