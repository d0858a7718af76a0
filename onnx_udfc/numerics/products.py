"""Products of large matrices on several threads, with the same bytes for any number of them.

BLAS is held to one thread (see runtime/blas.py). A product that is worth it is cut into blocks whose size depends on
the shapes alone, and the blocks are shared out: what each element is summed from, and in which order, never changes.
Smaller products stay whole; handing them out costs more than it saves, most of all on a machine that is busy.

Most work is many small steps, one after another, that cannot be cut so. Two such pieces that do not depend on one
another are done side by side: numpy and onnxruntime let go of Python's lock while they compute.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

EACH = 2e7  # multiply-adds of a block, about: half a millisecond, ten times what handing it out takes
SIDE = 512  # rows and columns of a block of a Gram
LEAST = 64  # rows or columns of a block
_MOST = 16  # parts of the samples of a tensor
HELD = 1 << 23  # values that work beside other work holds, at most: what that takes comes on top

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Crew:
    """Who takes parts of shared work beside the thread that asks for it, and how many these are."""

    pool: Executor
    helpers: int


_crew: ContextVar[_Crew | None] = ContextVar("crew", default=None)
_aside: ContextVar[Executor | None] = ContextVar("aside", default=None)


@contextlib.contextmanager
def workers(threads: int) -> Iterator[None]:
    """Let products inside, of this thread, use so many threads."""
    if threads <= 1:
        yield
        return
    with ThreadPoolExecutor(threads - 1, "products") as pool, ThreadPoolExecutor(threads, "aside") as aside:
        tokens = _crew.set(_Crew(pool, threads - 1)), _aside.set(aside)
        try:
            yield
        finally:
            _crew.reset(tokens[0])
            _aside.reset(tokens[1])


def slices(length: int, step: int) -> list[slice]:
    """All of a length, so much at a time."""
    return [slice(start, start + step) for start in range(0, length, step)]


def parts(rows: int, work: float) -> list[slice]:
    """Rows in as many parts as their work (multiply-adds) is worth, 16 at most."""
    return slices(rows, max(1, -(-rows // max(1, min(_MOST, int(work / EACH))))))


def product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """A @ b of matrices (m, k) and (k, n)."""
    rows, columns = len(a), b.shape[1]
    if a.flags.f_contiguous and rows >= 8 * a.shape[1] >= 16 * columns:  # of samples channel by channel: a third faster
        return np.ascontiguousarray(product(b.T, a.T).T)
    work = rows * a.shape[1] * columns
    if work < 2 * EACH or max(rows, columns) < 2 * LEAST:
        return np.asarray(a @ b)
    out = np.empty((rows, columns), np.result_type(a, b))
    if rows >= columns:
        each(lambda part: np.matmul(a[part], b, out=out[part]), _blocks(rows, work))
    else:
        each(lambda part: np.matmul(a, b[:, part], out=out[:, part]), _blocks(columns, work))
    return out


def _blocks(length: int, work: float) -> list[slice]:
    """Rows, or columns, of a product in blocks of EACH."""
    return slices(length, max(LEAST, int(length * EACH / work)))


def stacked(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """(g, m, n) products of (g, m, k) and (g, k, n); many small ones are better given to BLAS at once."""
    return product(a[0], b[0])[None] if len(a) == 1 else np.asarray(a @ b)


def gram(a: NDArray[Any]) -> NDArray[Any]:
    """Aᵀ A (d, d) of a matrix (n, d)."""
    rows, columns = a.shape
    if rows * columns * columns < 4 * EACH or columns <= SIDE:
        return np.asarray(a.T @ a)  # BLAS recognizes it: half the work
    out = np.empty((columns, columns), a.dtype)
    side = -(-columns // -(-columns // SIDE) // 16) * 16  # as wide as each other: 576 are not 512 and 64
    sides = slices(columns, side)

    def block(pair: tuple[slice, slice]) -> None:
        first, second = pair
        out[first, second] = a[:, first].T @ a[:, second]
        if first != second:
            out[second, first] = out[first, second].T

    each(block, [(first, second) for i, first in enumerate(sides) for second in sides[i:]])
    return out


def at_once() -> int:
    """Parts that `each` works on side by side."""
    crew = _crew.get()
    return 1 if crew is None else crew.helpers + 1


def each(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """What the work makes of each of the parts, in their order, shared out among the threads there are.

    The caller takes parts like the others: what waits for work to be handed out is at most as much as there are others.
    """
    crew = _crew.get()
    if crew is None or len(parts) < 2:
        return [work(part) for part in parts]
    left, made = deque(range(len(parts))), dict[int, R]()

    def take() -> None:
        _crew.set(None)  # of the copy that this is run in: who is waited for does not wait for others
        _aside.set(None)
        try:
            while left:
                try:
                    at = left.popleft()
                except IndexError:  # another one was faster
                    return
                made[at] = work(parts[at])
        except BaseException:
            left.clear()
            raise

    open_to = [take]
    number = min(crew.helpers, len(parts) - 1)
    others = [crew.pool.submit(_as_here(_join), open_to) for _ in range(number)]
    try:
        copy_context().run(take)
    finally:
        open_to.clear()
        for other in others:
            if not other.cancel():  # it has begun
                other.exception()
    for other in others:
        if not other.cancelled():
            other.result()
    return [made[at] for at in range(len(parts))]


def _as_here(work: Callable[[T], R]) -> Callable[[T], R]:
    """What another thread is to do as the caller would: what numpy does about faults is a thread's own before numpy 2.

    A context is entered by one thread at a time.
    """
    here, faults = copy_context(), np.geterr()

    def work_as_here(given: T) -> R:
        with np.errstate(**faults):
            return work(given)

    return lambda given: here.run(work_as_here, given)


def _join(open_to: list[Callable[[], None]]) -> None:
    """Take part in work, if there is any left: what waits in a queue must not keep its arrays when it is done."""
    for take in list(open_to):
        take()


def beside(work: Callable[[], R], held: int = 0) -> Callable[[], R]:
    """Begin work beside what goes on, where there are threads for it; gives what waits for its result.

    Its products are shared out like others. What it would begin beside itself it does at once, and so is done what
    holds many values.
    """
    aside = _aside.get()
    if aside is None or held > HELD:
        made = work()
        return lambda: made
    return aside.submit(_as_here(_alone), work).result


def _alone(work: Callable[[], R]) -> R:
    _aside.set(None)  # of the copy that this is run in
    return work()


class Behind:
    """Work that nothing waits for, done beside what goes on; what is found is taken in its order, one at a time."""

    def __init__(self) -> None:
        """Nothing is to be done."""
        self._last: Callable[[], None] = lambda: None
        self._done = threading.Event()
        self._done.set()

    def do(self, find: Callable[[], T], take: Callable[[T], None], held: int = 0) -> None:
        """Begin to find something and to take it, which hold so many values, when what came before is taken.

        While that is still at work the caller finds it, in place of waiting: of little two pieces are held anyway.
        """
        if held <= HELD and not self._done.is_set():
            find = partial(_same, find())
        self._last()
        self._done.clear()
        self._last = beside(partial(self._do, find, take), held)

    def _do(self, find: Callable[[], T], take: Callable[[T], None]) -> None:
        try:
            take(find())
        finally:
            self._done.set()

    def finish(self) -> None:
        """Wait for the last piece."""
        self._last()


def _same(found: T) -> T:
    return found
