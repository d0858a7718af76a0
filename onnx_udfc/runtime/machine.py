"""What the machine has room for."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

MOST_JOBS = 8
FILE_FACTOR, BASE = 8, 600_000_000  # bytes that one compression takes: times the file, and what any takes
_SLEEP = "20"  # log2 of the clock ticks that a thread of OpenBLAS waits awake: the cores are onnxruntime's, too
# Parameters of glibc's mallopt and values, bytes. What is larger than the first goes back once it is freed: beside
# small blocks that live on, places of large ones are not used again, and a chain of 20 operators took 14 tensors for 3.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = (-3, 1 << 26), (-1, 1 << 29)
_PART_OF_BOUND = 256  # of a bound on memory: the first of these then, or such places add up to it again
_ARENAS = (-8, 1)  # another of these parameters: how many parts memory has that threads share
ROOMY = 600e6  # bytes that a process may hold before it gives back what it has freed
FREED, LITTLE = 260e6, 300e6  # so much more than is in use (90e6 always are) goes back before that, but of a little
MUCH = 450e6  # from so much held on, half of it: it costs 6 per cent of the time of what holds less
_RESIDENT = Path("/proc/self/statm")
_CGROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

_kept: ContextVar[float] = ContextVar("kept", default=ROOMY)


def cores() -> int:
    """Processor cores that this process may use."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, quota() or there)


def quota() -> int | None:
    """Cores whose time a container or a batch system allows this process; None where nothing bounds it."""
    told = (*_limits("cpu", "cpu.max"), *_limits("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"))
    shares = [int(words[0]) / int(words[1]) for words in told if words[0] not in ("max", "-1")]
    return max(1, math.ceil(min(shares))) if shares else None


def memory() -> int:
    """Bytes of the machine's memory, or what a container or `ulimit -v` leaves of it; 0 where that cannot be known."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
    import resource  # only here, where there is sysconf: not on Windows

    told = (*_limits("memory", "memory.max"), *_limits("memory", "memory.limit_in_bytes"))
    bounds = [int(words[0]) for words in told if words[0] != "max"]
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([whole, *bounds, *([] if addresses == resource.RLIM_INFINITY else [addresses])])


def _limits(controller: str, *files: str) -> Iterator[list[str]]:
    """What the files of a controller say for the control groups that this process is in, in either version of them."""
    try:
        groups = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, kinds, path in (line.split(":", 2) for line in groups):
        if kinds and controller not in kinds.split(","):
            continue
        root = _CGROUPS / controller if kinds else _CGROUPS
        own = root / path.strip("/")  # in a container often a name of the outside, and only the root is there
        for group in (own, *own.parents):
            if group.is_relative_to(root):
                with contextlib.suppress(OSError):
                    yield [word for file in files for word in (group / file).read_text(encoding="ascii").split()]


def prepare_process() -> None:
    """Make the most of a process that is ours alone; to be called before numpy is imported.

    OpenBLAS's threads sleep soon after a product, and memory that was freed is kept for the next tensor: to get the
    pages of every tensor anew from the system takes a sixth of the time. What one thread freed another one takes: with
    memory of its own for each, two threads take a fifth more of it.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SLEEP)
    if sys.platform == "linux":
        _allocate_by(_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENAS)


def _allocate_by(*parameters: tuple[int, int]) -> None:
    """Set parameters of the C library's memory, where it has them."""
    library = ctypes.CDLL(None)
    for parameter, value in parameters if hasattr(library, "mallopt") else ():
        taken = library.mallopt(parameter, value)
        if not taken and parameter == _MMAP_THRESHOLD[0]:  # glibc before 2.35 takes half of that at most
            library.mallopt(parameter, value // 2)


def resident() -> int:
    """Bytes that this process holds; 0 where that cannot be known."""
    try:
        with _RESIDENT.open("rb", buffering=0) as file:  # asked at each piece of a pass: a third of read_text's time
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


@contextlib.contextmanager
def keeping(bound: float | None) -> Iterator[None]:
    """Inside, freed memory goes back from so much on that a bound (bytes) is kept; from ROOMY on without one.

    Within a run of a network only what is large goes back by itself: with a bound, smaller tensors do, too.
    """
    token = _kept.set(ROOMY if bound is None else min(ROOMY, 0.7 * bound))
    bounded = sys.platform == "linux" and bound is not None
    if bounded:
        kind, most = _MMAP_THRESHOLD
        _allocate_by((kind, min(most, int((bound or 0.0) / _PART_OF_BOUND))))
    try:
        yield
    finally:
        _kept.reset(token)
        if bounded:
            _allocate_by(_MMAP_THRESHOLD)


def release(above: float | None = None) -> None:
    """Give memory that was freed back to the system where this process holds more than so many bytes, or `keeping`'s.

    What lives on between large tensors that were freed keeps their places from being joined: without this, networks
    of large activations take twice what they need. To get pages again takes 3 ms for each 100 MB, so below that bound
    it is done only where much was freed.
    """
    held, most = resident(), _kept.get() if above is None else above
    if held > most or (held > LITTLE and above is None and held - in_use() > FREED / (2 if held > MUCH else 1)):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def make_room(size: int) -> None:
    """Give back what was freed before a tensor of so many bytes is made that the C library will not put there."""
    if size >= _MMAP_THRESHOLD[1]:
        release(LITTLE)


def let_go() -> None:
    """Free what only refers to itself, as graphs do, where this process holds much, and give it back."""
    if resident() > _kept.get():
        gc.collect()
    release()


class _Use(ctypes.Structure):
    """What mallinfo2 of glibc tells, in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def in_use() -> float:
    """Bytes that were asked of the C library and not freed; infinite where that cannot be known."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return math.inf
    library.mallinfo2.restype = _Use
    found = library.mallinfo2()
    return float(found.uordblks + found.hblkhd)


def fitting_jobs(file_bytes: int) -> int:
    """How many compressions of a file of this size may run side by side: one a core, in half of the memory."""
    each = BASE + FILE_FACTOR * file_bytes
    return max(1, min(cores(), MOST_JOBS, memory() // 2 // each))
