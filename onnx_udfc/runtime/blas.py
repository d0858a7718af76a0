"""BLAS on one thread while anything here computes.

How LAPACK sums depends on the number of BLAS's threads, and those wait awake for one another: on a busy machine small
products take many times as long. What is large enough for several threads is shared out in numerics/products.py.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController, threadpool_limits


class _OneThread:
    """The limit of the process, set while somebody needs it: BLAS has one number for all threads of Python."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limit: threadpool_limits | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold BLAS to one thread; the last to leave restores what the host had set."""
        with self._lock:
            if self._users == 0:
                _unclaim()
                self._limit = threadpool_limits(1, user_api="blas")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._limit is not None:
                    _unclaim()
                    self._limit.restore_original_limits()
                    self._limit = None


def _unclaim() -> None:
    """Let this thread set BLAS's number: threadpoolctl 3.8 does nothing in all threads but the first that set one."""
    for library in ThreadpoolController().lib_controllers:
        clear = getattr(library, "clear_controlling_thread", None)
        if clear is not None:
            clear(force=True)


one_thread = _OneThread()
