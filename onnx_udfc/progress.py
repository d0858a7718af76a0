"""How a long computation tells what it does, to whoever listens."""

from __future__ import annotations

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
