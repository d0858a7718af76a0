"""Tasks worked through by processes of their own: one that is killed costs its task, not the others.

Each process is a new interpreter (a fork would copy onnxruntime's threads in mid-step) and gets one task after
another through a pipe. When the parent stops, for whatever reason, they are ended at once: a pipe that closes ends one
that waits, a signal one that works.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

from onnx_udfc.errors import RequestError

T = TypeVar("T")

_PATIENCE = 1.0  # seconds until a process that was asked to end is killed


@dataclass
class _Member(Generic[T]):
    """A process, our end of its pipe, whether it has begun, its task and the kind of the last one."""

    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    task: T | None = None
    kind: Hashable = None

    def give(self, task: T, kind: Hashable) -> None:
        """Send a task."""
        self.task, self.kind = task, kind
        self.pipe.send(task)

    def end(self) -> None:
        """End the process now."""
        self.pipe.close()
        self.process.terminate()

    def wait(self) -> None:
        """Wait until it is gone."""
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def work_through(
    tasks: Sequence[T], work: Callable[[T], None], jobs: int, kind: Callable[[T], Hashable], prepare: Callable[[], None]
) -> Generator[tuple[T, str], None, None]:
    """Yield each task when it is done, with why its process died; that is empty if it did not.

    Args:
        tasks: passed to processes, so they can be pickled.
        work: called in a process for each of its tasks; pickled once a process, it may remember what it has read.
        jobs: processes.
        kind: tasks of one kind go to the process that did one of it before, where that can be.
        prepare: called first in each process: what signals and the parent's end do to it.

    Raises:
        Exception: whatever `work` raised.
        RequestError: a process could not begin.
    """
    waiting, crew = list(tasks), list[_Member[T]]()
    try:
        while waiting or any(member.task is not None for member in crew):
            _occupy(crew, waiting, jobs, kind, lambda: _started(work, prepare))
            ready = wait([member.pipe for member in crew])
            for member in [m for m in crew if m.pipe in ready]:
                task, (ended, fault) = member.task, _heard(member)
                if fault:
                    crew.remove(member)
                if ended and task is not None:
                    yield task, fault
    finally:
        for member in crew:
            member.end()
        for member in crew:
            member.wait()


def _occupy(
    crew: list[_Member[T]], waiting: list[T], jobs: int, kind: Callable[[T], Hashable], start: Callable[[], _Member[T]]
) -> None:
    """Give every idle member a task, and start as many members as there are tasks for."""
    while waiting:
        idle = next((member for member in crew if member.task is None), None)
        if idle is None:
            if len(crew) == jobs:
                return
            crew.append(idle := start())
        _give_next(crew, idle, waiting, kind)


def _give_next(crew: list[_Member[T]], member: _Member[T], waiting: list[T], kind: Callable[[T], Hashable]) -> None:
    """A task of the kind that this member did last, else of one that nobody is at, else the next."""
    busy = {other.kind for other in crew if other is not member}
    fitting = [i for i, task in enumerate(waiting) if kind(task) == member.kind]
    free = [i for i, task in enumerate(waiting) if kind(task) not in busy]
    task = waiting.pop((fitting or free or [0])[0])
    member.give(task, kind(task))


def _started(work: Callable[[T], None], prepare: Callable[[], None]) -> _Member[T]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, prepare), daemon=True)
    process.start()
    theirs.close()
    return _Member(process, ours)


def _heard(member: _Member[T]) -> tuple[bool, str]:
    """Whether a member's task has ended, and why its process did, if it did.

    Raises:
        Exception: whatever `work` raised.
        RequestError: the process could not begin.
    """
    try:
        error = member.pipe.recv()
    except (EOFError, OSError):
        member.process.join()
        code = member.process.exitcode or 0
        if not member.ready:
            raise RequestError(
                f"a process could not start (exit code {code}); a script needs `if __name__ == '__main__':`, or jobs=1"
            ) from None
        return True, f"signal {-code}" if code < 0 else f"exit code {code}"
    if error is not None:
        raise error
    if not member.ready:
        member.ready = True
        return False, ""
    member.task = None
    return True, ""


def _serve(pipe: Connection, work: Callable[[T], None], prepare: Callable[[], None]) -> None:
    """What a process does until its pipe is closed."""
    prepare()
    pipe.send(None)  # begun
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(_error_of(work, task))


def _error_of(work: Callable[[T], None], task: T) -> Exception | None:
    """What `work` raised, or None; what cannot be pickled is told in words."""
    try:
        work(task)
    except Exception as error:
        try:
            pickle.dumps(error)
        except Exception:
            return RuntimeError(f"{type(error).__name__}: {error}")
        return error
    return None
