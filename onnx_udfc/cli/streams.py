"""Standard output and standard error, which may be closed, full, or of an encoding that lacks what is to be said."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import IO, Any

from onnx_udfc.errors import RequestError
from onnx_udfc.escapes import json_text, visible


def prepare() -> None:
    """Let characters that an encoding lacks be written as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def put(text: str, needed: bool = True) -> None:
    """Write to standard output.

    The text is safe to show. Where it is not `needed`, a failure is said and forgotten: what was asked for is done.

    Raises:
        RequestError: it cannot be written, and is all that was asked for.
        BrokenPipeError: the same, and the reader wants no more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _silence(sys.stdout, 1)
        line = f"standard output cannot be written ({getattr(error, 'strerror', None) or error})"
        if isinstance(error, BrokenPipeError):  # that reader wants no more, and knows it
            if needed:
                raise
        elif needed:
            raise RequestError(line) from error
        else:
            say(f"warning: {line}")


def put_json(value: Any, needed: bool = True) -> None:
    """Write JSON to standard output, in ASCII where its encoding lacks a character; `needed` as for `put`."""
    text = json_text(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, allow_nan=False)
    put(text + "\n", needed)


def say(message: str, *, alarming: bool = False) -> None:
    """Write one line to standard error, if anybody takes it; red on a terminal that has colours, where alarming."""
    with contextlib.suppress(OSError, ValueError):
        line = f"onnx-udfc: {visible(' '.join(message.split()))}"
        red = alarming and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        sys.stderr.write(f"\x1b[1;31m{line}\x1b[0m\n" if red else f"{line}\n")
        sys.stderr.flush()


def settle() -> None:
    """Write what is still held back, so that the end of the process finds nothing to fail on."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):
            _silence(stream, number)


def _silence(stream: IO[str], number: int) -> None:
    """Lead a stream that cannot be written to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        if stream.fileno() == number:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
