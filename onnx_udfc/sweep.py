"""Many compressions of one network: models, a table and a plot in a folder; goes on where it was stopped.

In the folder: NAME.onnx and NAME.json for each setting, sweep.csv, sweep.json and sweep.html. A setting is done when
its NAME.json was made by the same version from the same file with the same options; it is written after the model.
Each process reads and traces the original once.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_udfc.errors import UdfcError
from onnx_udfc.evaluate.report import Report
from onnx_udfc.inputs.image_files import Labelled
from onnx_udfc.interrupts import serve_parent
from onnx_udfc.model.files import save
from onnx_udfc.options import Options
from onnx_udfc.outputs import write_text
from onnx_udfc.pipeline import Original, compress, read_original
from onnx_udfc.progress import Callbacks, Silent
from onnx_udfc.runtime.machine import cores
from onnx_udfc.runtime.sessions import Source, open_session
from onnx_udfc.sweep_grid import Grid
from onnx_udfc.sweep_table import SweepRow, SweepTable
from onnx_udfc.version import this_tool

_POLL = 0.5  # seconds between looks at what other processes have finished
_BATCH = 32

__all__ = ["SweepRow", "SweepTable", "sweep"]


@dataclass(frozen=True)
class Task:
    """One setting; passes between processes.

    Attributes:
        name: of its files, without their endings.
        options: of the compression.
        key: changes when its result would.
    """

    name: str
    options: Options
    key: str


def sweep(
    source: str | Path | bytes | onnx.ModelProto,
    directory: str | Path,
    grid: Grid,
    options: Options | None = None,
    jobs: int = 1,
    labelled: Labelled | None = None,
    callbacks: Callbacks | None = None,
) -> SweepTable:
    """Compress a network in every setting of a grid.

    Args:
        source: the network, as `compress` takes it.
        directory: of the results; made if it is not there.
        grid: ratios, bits and activations to combine.
        options: everything else.
        jobs: processes; each is a new interpreter, so a script that asks for several needs a `__main__` guard.
        labelled: images for real accuracy.
        callbacks: told of every finished setting.

    Raises:
        UdfcError: the source or the grid cannot be served; a setting that fails alone is a row with its reason.
    """
    told, folder = callbacks or Silent(), Path(directory)
    content = _content(source)
    points = list(grid.points(options or Options()))
    tasks = [Task(name, point, _key(content, point, labelled)) for name, point in points]
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [task for task in tasks if _finished(folder, task) is None]
    told.stage("sweep", len(tasks))
    told.advance(len(tasks) - len(waiting), "done before")
    if waiting:
        _run_all(source, content, folder, waiting, jobs, labelled, told)
    rows = tuple(_finished(folder, task) or _failed(folder, task) for task in tasks)
    accuracy = None if labelled is None else accuracy_of(content, labelled)
    table = SweepTable(Path(source).name if isinstance(source, str | Path) else "model", rows, accuracy)
    write_text(folder / "sweep.csv", table.to_csv())
    write_text(folder / "sweep.json", json.dumps(table.to_dict(), indent=2, allow_nan=False) + "\n")
    write_text(folder / "sweep.html", table.to_html())
    told.done()
    return table


def _content(source: Source) -> bytes | str:
    """What passes between processes: a path where there is one (external data lie beside it), else bytes."""
    if isinstance(source, onnx.ModelProto):
        return bytes(source.SerializeToString())
    return source if isinstance(source, bytes) else str(source)


def _key(content: bytes | str, options: Options, labelled: Labelled | None) -> str:
    """A hash of the file, the options that change the result, and what it is judged on."""
    digest = hashlib.sha256(content if isinstance(content, bytes) else _read(content))
    without = {"threads", "verbose", "debug"}
    asked = {k: v for k, v in options.to_dict().items() if k not in without}
    digest.update(json.dumps([this_tool().version, asked, str(labelled)], sort_keys=True).encode())
    return digest.hexdigest()


def _read(path: str) -> bytes:
    """The file, or nothing: a missing file is reported by who opens it."""
    return Path(path).read_bytes() if Path(path).is_file() else b""


def _run_all(
    source: Source, content: bytes | str, folder: Path, tasks: list[Task], jobs: int, labelled: Labelled | None,
    told: Callbacks,
) -> None:  # fmt: skip
    """Work through the tasks, here or in processes."""
    original = read_original(source, _widest(tasks))  # also refuses a bad file before any process starts
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for task in tasks:
            _work(content, folder, task, original, labelled)
            told.advance(1, task.name)
        return
    threads = max(1, cores() // jobs)
    shared = [replace(t, options=replace(t.options, threads=t.options.threads or threads)) for t in tasks]
    context = multiprocessing.get_context("spawn")  # a fork would copy onnxruntime's threads in mid-step
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=serve_parent) as pool:
        futures = [pool.submit(_work_through, content, folder, shared[i::jobs], labelled) for i in range(jobs)]
        for name in _progress(folder, shared, futures):
            told.advance(1, name)


def _progress(folder: Path, tasks: Sequence[Task], futures: Sequence[Future[None]]) -> Iterator[str]:
    """Names of the tasks as they are finished.

    Raises:
        UdfcError: a process failed as a whole.
    """
    seen: set[str] = set()
    pending = set(futures)
    while pending:
        done, pending = wait(pending, _POLL, FIRST_COMPLETED)
        for future in done:
            future.result()
        for task in tasks:
            if task.name not in seen and (folder / f"{task.name}.json").exists() and _record(folder, task):
                seen.add(task.name)
                yield task.name


def _work_through(content: bytes | str, folder: Path, tasks: Sequence[Task], labelled: Labelled | None) -> None:
    """What one process does."""
    original = read_original(content, _widest(tasks))
    for task in tasks:
        _work(content, folder, task, original, labelled)


def _widest(tasks: Sequence[Task]) -> Options:
    """Options whose trace serves all tasks."""
    prune = max(task.options.prune for task in tasks)
    bits = "auto" if any(task.options.bits == "auto" for task in tasks) else tasks[0].options.bits
    return replace(tasks[0].options, prune=prune, bits=bits)


def _work(content: bytes | str, folder: Path, task: Task, original: Original, labelled: Labelled | None) -> None:
    """One setting: its model, then its record."""
    start = time.perf_counter()
    row = SweepRow(task.name, task.options.prune, task.options.bits, task.options.activations)
    try:
        result = compress(content, task.options, original=original)
        save(result.model, folder / f"{task.name}.onnx")
        row = _filled(row, result.report)
        if labelled is not None:
            row = replace(row, accuracy=accuracy_of(result.model, labelled))
    except UdfcError as error:
        row = replace(row, error=str(error))
    row = replace(row, seconds=round(time.perf_counter() - start, 2))
    record = {"key": task.key, "row": {name: getattr(row, name) for name in row.__dataclass_fields__}}
    write_text(folder / f"{task.name}.json", json.dumps(record, indent=2) + "\n")


def _filled(row: SweepRow, report: Report) -> SweepRow:
    before, after, fidelity = report.before, report.after, report.fidelity
    return replace(
        row,
        parameters=after.parameters / max(before.parameters, 1),
        macs=after.macs / max(before.macs, 1),
        bytes=after.bytes / max(before.bytes, 1),
        sqnr_db=_finite(fidelity.sqnr_db),
        cosine=_finite(fidelity.cosine),
        agreement=fidelity.agreement,
    )


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: an exact copy has no SQNR."""
    return value if value is not None and np.isfinite(value) else None


def _record(folder: Path, task: Task) -> dict[str, Any] | None:
    """What was written about a task, if it is about this very task."""
    try:
        found = json.loads((folder / f"{task.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found["row"] if isinstance(found, dict) and found.get("key") == task.key else None


def _finished(folder: Path, task: Task) -> SweepRow | None:
    """The row of a task that is done: recorded without an error, its model there."""
    row = _record(folder, task)
    if row is None or row["error"] or not (folder / f"{task.name}.onnx").exists():
        return None
    return SweepRow(**row)


def _failed(folder: Path, task: Task) -> SweepRow:
    row = _record(folder, task)
    assert row is not None, f"{task.name} left no record"
    return SweepRow(**row)


def accuracy_of(model: Source, labelled: Labelled) -> float:
    """Share of the labelled images whose class is the largest output.

    Raises:
        UdfcError: the images do not fit the model.
    """
    images = labelled.open()
    session = open_session(model)
    given = session.get_inputs()[0]
    shape = [d if isinstance(d, int) and d > 0 else None for d in given.shape]
    dtype = np.float16 if "float16" in given.type else np.float32
    batches = images.batches(shape, labelled.preprocessing, shape[0] or _BATCH, labelled.limit)
    found = [session.run(None, {given.name: x.astype(dtype)})[0].reshape(len(x), -1).argmax(1) for x in batches]
    answers = np.concatenate(found)
    assert images.labels is not None
    return float((answers == images.labels[: len(answers)]).mean())
