"""Tasks worked through by the workers of a Dask cluster, on whatever machines they run.

What all tasks share travels once to each worker and stays there between its tasks. A task whose worker dies is given
to another one by the scheduler; one that ends several workers is given up with the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from onnx_udfc.errors import RequestError

T = TypeVar("T")
R = TypeVar("R")

SCHEME = "dask://"
PATIENCE = 15.0  # seconds until a scheduler that does not answer is given up


def work_through(
    executor: str, tasks: Sequence[T], work: Callable[[T], R]
) -> Generator[tuple[T, R | None, str], None, None]:
    """Yield each task when it is done, with what came of it, or with None and why nothing did.

    Args:
        executor: dask://HOST:PORT of the scheduler.
        tasks: can be pickled, as what comes of them.
        work: pickled once for all workers; a copy stays at each, and may remember what it has read.

    Raises:
        RequestError: Dask is not installed, or no scheduler answers.
        Exception: Whatever `work` raised.
    """
    dask = _library(executor)
    with _client(dask, executor) as client, client.as_current():
        shared = client.scatter(work, broadcast=True, hash=False)
        waiting = {client.submit(operator.call, shared, task, pure=False): task for task in tasks}
        try:
            for future in dask.as_completed(list(waiting)):
                task = waiting.pop(future)
                fault = _fault(dask, future)
                yield task, (None if fault else future.result()), fault
                future.release()
        finally:
            client.cancel(list(waiting))


def _fault(dask: Any, future: Any) -> str:
    """Why a task was given up, or an empty text.

    Raises:
        Exception: Whatever the work raised.
    """
    error = future.exception()
    if error is None:
        return ""
    if isinstance(error, dask.scheduler.KilledWorker):
        return "workers of the cluster that were at it ended"
    if future.cancelled():
        return "the cluster has lost what it was sent: all of its workers ended"
    raise error


def _library(executor: str) -> Any:
    try:
        import distributed
    except ImportError:
        raise RequestError(f"--executor {executor}: needs Dask; pip install 'onnx-udfc[dask]'") from None
    return distributed


def _client(dask: Any, executor: str) -> Any:
    address = f"tcp://{executor.removeprefix(SCHEME)}"
    try:
        return dask.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise RequestError(f"--executor {executor}: no scheduler of Dask answers there ({error})") from error
