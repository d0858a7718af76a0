"""Files that appear whole or not at all, and nothing left over however the process ends.

A file is first written under a name that nobody can guess, made anew and never through a link that lies there already,
then moved to where it belongs. What is still there when a process must end at once is removed by `remove_leftovers`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnx_udfc.errors import ArgumentError, RequestError

PREFIX, SUFFIX = ".onnx-udfc.", ".tmp"  # how temporary names begin and end
STALE = 24 * 3600  # seconds after which what killed processes have left is removed
_paths: set[Path] = set()  # of this process, removed if it must end at once
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_children: set[subprocess.Popen[str]] = set()
_shared: set[Path] = set()  # folders of worker processes


@contextlib.contextmanager
def temporary_folder(parent: str | Path) -> Iterator[Path]:
    """Make a folder that only this user can enter; it is removed with all that is in it.

    Raises:
        OSError: `parent` is not there or cannot be written to.
    """
    with _temporary(Path(parent)) as path:
        path.mkdir(mode=0o700)
        yield path


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for what nobody is to see, where the system has such; it is removed with all that is in it.

    Raises:
        RequestError: there is no such place, or no room in it.
    """
    try:
        with temporary_folder(tempfile.gettempdir()) as path:
            yield path
    except OSError as error:
        if tempfile.tempdir is not None and error.errno not in _FULL:
            raise
        raise no_scratch(error.strerror or str(error)) from error


def no_scratch(why: str) -> RequestError:
    """What is said where temporary files cannot be written."""
    where = tempfile.tempdir or "temporary files"
    return RequestError(f"{where}: cannot be written ({why}); make room there, or set TMPDIR to another folder")


@contextlib.contextmanager
def temporary_file(parent: str | Path) -> Iterator[Path]:
    """Make an empty file; it is removed if it is still there at the end.

    Raises:
        OSError: `parent` is not there or cannot be written to.
    """
    with _temporary(Path(parent)) as path:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield path


@contextlib.contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """A name for what must not outlive the process, known before anything of that name is there."""
    path = parent / f"{PREFIX}{os.getpid()}.{secrets.token_hex(8)}{SUFFIX}"
    _paths.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _paths.discard(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def child_process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a process whose output is read; it is killed if it still runs at the end."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    _children.add(child)
    try:
        with child:
            try:
                yield child
            finally:
                child.kill()
    finally:
        _children.discard(child)


def remove_leftovers() -> list[int]:
    """Remove all temporary files of this process and its workers, which are stopped; for a process that ends at once.

    Returns:
        The workers. They are still there, and so is what ties them to the rest of this process, which would wake up and
        start others if they were not: kill them when nothing is left but to end.
    """
    for child in list(_children):
        child.kill()
    stopped = _stopped(set())
    left = [file for folder in (*_shared, Path(tempfile.gettempdir())) for pid in stopped
            for file in folder.glob(f"{PREFIX}{pid}.*{SUFFIX}")]  # fmt: skip
    for path in (*list(_paths), *left):
        _remove(path)
    return sorted(_stopped(stopped))  # and those that were started meanwhile, which have not come to writing yet


def _stopped(before: set[int]) -> set[int]:
    """Stop all workers that are not stopped yet; all of them."""
    stopped = set(before)
    while new := _workers() - stopped:
        for pid in new:
            with contextlib.suppress(OSError, AttributeError):  # Windows cannot stop a process
                os.kill(pid, signal.SIGSTOP)
        stopped |= new
    return stopped


def _workers() -> set[int]:
    """Processes of pools, as Python lists them and as Linux does, which knows of those that are just being started."""
    if "multiprocessing" not in sys.modules:
        return set()
    import multiprocessing

    found = {worker.pid or 0 for worker in multiprocessing.active_children()} - {0}
    with contextlib.suppress(OSError):
        for tasks in Path("/proc/self/task").glob("*/children"):
            for pid in tasks.read_text(encoding="ascii").split():
                # of one that is just being started the words are still our own
                if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(int(pid))
    return found


def share(folder: Path) -> None:
    """Name a folder that worker processes write into: what is theirs there goes when they are stopped."""
    _shared.add(folder)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes have left: one has its files only while it writes, so an old one belongs to none."""
    for left in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > STALE:
                _remove(left)


def path_of(given: object) -> Path:
    """Return a path that a caller gave in any form.

    Raises:
        ArgumentError: it is none: an open file, bytes, None.
    """
    if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
        raise ArgumentError(f"a path must be text or a pathlib.Path, not {type(given).__name__}")
    return Path(given)


def destination(path: str | Path) -> Path:
    """Return the file that writing to a path replaces: the path itself, or what a symlink leads to.

    Raises:
        RequestError: it is a folder, a device, a pipe or write-protected, or there is no folder to put it in.
    """
    try:
        real, mode = Path(os.path.realpath(path)), None
        with contextlib.suppress(FileNotFoundError):
            mode = real.stat().st_mode
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RequestError(f"{path}: cannot be a file ({reason}); choose another name") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise RequestError(f"{path}: is a folder; name a file in it")
    if mode is not None and not stat.S_ISREG(mode):
        raise RequestError(f"{path}: is a device, a pipe or a socket; name a file")
    if not real.parent.is_dir():
        raise RequestError(f"{path}: there is no folder {real.parent}; create it first")
    if mode is not None and not os.access(real, os.W_OK):
        raise RequestError(f"{path}: is write-protected; change that, or name another file")
    return real


def check_writable(path: str | Path) -> None:
    """Try now what would otherwise fail after minutes of work: a file beside `path`.

    Raises:
        RequestError: the path cannot be written to.
    """
    real = destination(path)
    if len(os.fsencode(real.name)) > _longest_name(real.parent):
        raise RequestError(f"{path}: the name is too long; choose a shorter one")
    try:
        with temporary_file(real.parent):
            pass
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


def _longest_name(folder: Path) -> int:
    """Bytes of the longest file name."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return 255


def same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two paths name one file, through links too, there or not."""
    try:
        return Path(first).samefile(second)
    except (OSError, ValueError):
        return os.path.realpath(first) == os.path.realpath(second)


def move(written: Path, target: Path) -> None:
    """Put a whole file in the place of another, which gives it its permissions.

    Both are on one file system; the target is as `destination` gives it, and need not exist.

    Raises:
        OSError: the file system refuses.
    """
    with contextlib.suppress(FileNotFoundError):
        before = target.stat()
        written.chmod(stat.S_IMODE(before.st_mode))
        if hasattr(os, "chown") and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(OSError):  # only root may give files away
                os.chown(written, before.st_uid, before.st_gid)
                written.chmod(stat.S_IMODE(before.st_mode))  # which chown may have narrowed
    written.replace(target)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line.

    Raises:
        RequestError: the file system refuses.
    """
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{path} cannot be written ({error.strerror}); choose another folder or make room"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) that is there whole or not at all.

    Raises:
        RequestError: the path is not that of a file, or the file system refuses.
    """
    target = destination(path)
    with writing(path), temporary_file(target.parent) as written:
        written.write_text(text, encoding="utf-8")
        move(written, target)
