"""Products of large matrices on several threads, with the same bytes for any number of them.

BLAS is held to one thread (see runtime/blas.py). A product that is worth it is cut into blocks whose size depends on
the shapes alone, and the blocks are shared out: what each element is summed from, and in which order, never changes.
Smaller products stay whole; handing them out costs more than it saves, most of all on a machine that is busy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

EACH = 1.2e8  # multiply-adds of a block, about: 2 to 4 ms, a hundred times what handing it out takes
SIDE = 512  # rows and columns of a block of a Gram
_MOST = 16  # parts of the samples of a tensor

T = TypeVar("T")
R = TypeVar("R")

_pool: ContextVar[Executor | None] = ContextVar("pool", default=None)


@contextlib.contextmanager
def workers(threads: int) -> Iterator[None]:
    """Let products inside, of this thread, use so many threads."""
    if threads <= 1:
        yield
        return
    with ThreadPoolExecutor(threads, "products") as pool:
        token = _pool.set(pool)
        try:
            yield
        finally:
            _pool.reset(token)


def parts(rows: int, work: float) -> list[slice]:
    """Rows in as many parts as their work (multiply-adds) is worth, 16 at most."""
    step = max(1, -(-rows // max(1, min(_MOST, int(work / EACH)))))
    return [slice(start, start + step) for start in range(0, rows, step)]


def product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """A @ b of matrices (m, k) and (k, n)."""
    rows, inner, columns = *a.shape, b.shape[1]
    if rows * inner * columns < 2 * EACH or columns == 0:
        return np.asarray(a @ b)
    out = np.empty((rows, columns), np.result_type(a, b))
    height = max(SIDE // 8, int(EACH / (inner * columns)))
    pieces = [slice(start, start + height) for start in range(0, rows, height)]
    each(lambda piece: np.matmul(a[piece], b, out=out[piece]), pieces)
    return out


def stacked(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """(g, m, n) products of (g, m, k) and (g, k, n); many small ones are better given to BLAS at once."""
    return product(a[0], b[0])[None] if len(a) == 1 else np.asarray(a @ b)


def gram(a: NDArray[Any]) -> NDArray[Any]:
    """Aᵀ A (d, d) of a matrix (n, d)."""
    rows, columns = a.shape
    if rows * columns * columns < 4 * EACH or columns <= SIDE:
        return np.asarray(a.T @ a)  # BLAS recognizes it: half the work
    out = np.empty((columns, columns), a.dtype)
    sides = [slice(start, start + SIDE) for start in range(0, columns, SIDE)]

    def block(pair: tuple[slice, slice]) -> None:
        first, second = pair
        out[first, second] = a[:, first].T @ a[:, second]
        if first != second:
            out[second, first] = out[first, second].T

    each(block, [(first, second) for i, first in enumerate(sides) for second in sides[i:]])
    return out


def each(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """What the work makes of each of the parts, in their order, shared out among the threads there are."""
    pool = _pool.get()
    return [work(part) for part in parts] if pool is None else list(pool.map(work, parts))
