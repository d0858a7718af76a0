"""What SIGINT, SIGTERM and SIGHUP do to a process that is ours: it ends within a moment, and says what is true.

Python runs signal handlers between two of its own instructions, so a process that is inside a long run of onnxruntime
would not notice. Here the signal wakes a thread, which removes what is half written and ends the process, whatever the
rest of it is doing. The moves that make results appear are the one thing it waits for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator

INTERRUPTED = 130
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"  # after progress bars, which hide it
_PATIENCE = 200  # milliseconds to wait for a reader of standard error


class Interrupts:
    """How a process ends when it is told to."""

    def __init__(self) -> None:
        """Nothing is written yet, and nothing is installed."""
        self._moving, self._ending = threading.Lock(), threading.Event()
        self._code, self._message = INTERRUPTED, "interrupted; nothing was written"

    def install(self) -> None:
        """Take over the signals of this process; only from its main thread."""
        sys.warnoptions.append("ignore:resource_tracker:UserWarning")  # it tidies up after us, and need not say so
        wake, woken = os.pipe()
        if hasattr(os, "set_blocking"):  # Windows has it from Python 3.12 on, and does not ask for it
            os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            signal.signal(number, _awaken)
        threading.Thread(target=self._wait, args=(wake,), daemon=True, name="interrupts").start()

    def _wait(self, wake: int) -> None:
        while not os.read(wake, 1):
            pass
        self.end()

    def end(self) -> None:
        """Remove what is half written and end the process."""
        with self._moving:
            self._ending.set()
            from onnx_udfc.outputs import remove_leftovers

            _say(self._message)
            workers = remove_leftovers()
            for worker in workers:
                with contextlib.suppress(OSError):
                    os.kill(worker, getattr(signal, "SIGKILL", signal.SIGTERM))
            os._exit(self._code)  # at once: nothing here has let another thread see that they are gone

    def settle(self) -> None:
        """Wait for the end if it has begun: what the rest of the process makes of it is not to be seen."""
        while self._ending.is_set():
            time.sleep(1)

    def leave(self) -> None:
        """Take no more notice of signals: Python would hand them back to the system, which changes the exit code."""
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            signal.signal(number, signal.SIG_IGN)

    def told(self, message: str) -> None:
        """Change what is said when the process is interrupted from now on."""
        with self._moving:
            self._message = f"interrupted; {message}"

    @contextlib.contextmanager
    def moving(self, then: str) -> Iterator[None]:
        """Let results appear without being interrupted; once they are there the command has succeeded.

        `then` is said to an interrupt that comes later.
        """
        with self._moving:
            yield
            self._code, self._message = 0, f"interrupted; {then}"


def _awaken(_number: int, _frame: object) -> None:
    """Do nothing: that the signal is caught is what wakes the thread."""


def _say(message: str) -> None:
    """Write a line to standard error, if somebody takes it."""
    line = f"onnx-udfc: {message}\n".encode(errors="backslashreplace")
    with contextlib.suppress(OSError, ValueError):
        if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb":
            line = _SHOW_CURSOR + line
        waiting = select.poll()
        waiting.register(2, select.POLLOUT)
        if waiting.poll(_PATIENCE):
            os.write(2, line)


def serve_parent() -> None:
    """Make this a worker process: it ends with its parent, or when asked to, and leaves nothing half written.

    An interrupt from the keyboard reaches all processes of a terminal; the parent decides what it means.
    """
    import multiprocessing
    from multiprocessing import connection

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _awaken)
    parent = multiprocessing.parent_process()
    assert parent is not None, "serve_parent is for processes of multiprocessing"
    threading.Thread(target=_end_quietly, args=([wake, parent.sentinel], connection.wait), daemon=True).start()


def _end_quietly(reasons: list[int], wait: object) -> None:
    assert callable(wait)
    wait(reasons)
    from onnx_udfc.outputs import remove_leftovers

    remove_leftovers()
    os._exit(INTERRUPTED)


def open_standard_files() -> None:
    """Give a process that was started without standard input, output or error (a daemon) ones that lead nowhere.

    Otherwise the next file that is opened takes their place, and what libraries print ends up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
