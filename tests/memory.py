"""How much memory numpy takes while something is computed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def taken(work: Callable[[], T]) -> tuple[T, int]:
    """What the work gives, and the most bytes that it had at once beside what was there before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = work()
        return found, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
