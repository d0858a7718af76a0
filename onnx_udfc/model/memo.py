"""What was found out once and is asked again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Found = TypeVar("Found")


class Memo:
    """Answers by all that they depend on."""

    def __init__(self, most: int = 64) -> None:
        """Nothing is known yet.

        At most so many answers are kept, the latest ones.
        """
        self._known: dict[Hashable, Any] = {}
        self._most = most

    def once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """The answer that is known under a key, else what `find` returns.

        The key has everything that the answer depends on: whoever asks with equal keys wants the same thing.
        """
        if key not in self._known:
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[key] = find()
        found: Found = self._known[key]
        return found
