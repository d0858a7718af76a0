"""Many compressions of one network: models, a table and a plot in a folder; goes on where it was stopped.

In the folder: NAME.onnx and NAME.json for each setting, sweep.csv, sweep.json and sweep.html. A setting is done when
its NAME.json was made by the same version from the same file with the same options, and its NAME.onnx has the size
that stands there; it is written after the model.
A process reads the original once, and runs it once for all settings whose runs of it are the same.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx

from onnx_udfc.errors import ModelError, RequestError, UdfcError
from onnx_udfc.evaluate.speed import one_run, timed
from onnx_udfc.inputs.image_files import asked_preprocessing
from onnx_udfc.inputs.real import Labelled
from onnx_udfc.interrupts import serve_parent
from onnx_udfc.model.files import load, weight_files
from onnx_udfc.model.protos import whole
from onnx_udfc.model.samples import with_samples
from onnx_udfc.model.saving import is_large, save
from onnx_udfc.options import CombinationError, InMemory, Options, Requirement, Sweeping, command_line
from onnx_udfc.original import Original, read_original, trace_order
from onnx_udfc.outputs import check_writable, share, write_text, writing
from onnx_udfc.progress import Callbacks, Silent
from onnx_udfc.runtime import cluster
from onnx_udfc.runtime.crew import work_through
from onnx_udfc.runtime.machine import cores, fitting_jobs
from onnx_udfc.runtime.providers import CPU, Provider, asked_provider
from onnx_udfc.runtime.sessions import Source, check_provider, file_bytes, open_session
from onnx_udfc.summary import file_report
from onnx_udfc.sweep_grid import Grid
from onnx_udfc.sweep_table import SweepRow, SweepTable
from onnx_udfc.version import this_tool, versions

if TYPE_CHECKING:
    from onnx_udfc.evaluate.report import Report
    from onnx_udfc.pipeline import Result

_BATCH = 32
PICKED = "picked.onnx"
MOST_TIMED = 50  # settings, those that nothing beats first
SECONDS = 0.2  # for each

__all__ = ["SweepRow", "SweepTable", "sweep"]


class Compress(Protocol):
    """What makes one setting: `compress` of the pipeline; named by its module, it passes between processes."""

    def __call__(self, source: Source, options: Options, *, original: Original) -> Result: ...


@dataclass(frozen=True)
class Task:
    """One setting; passes between processes.

    The name is that of its files, without their endings; the key changes when its result would.
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
    executor: str | None = None,
    *,
    compress: Compress,
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
        executor: dask://HOST:PORT of a scheduler whose workers do what processes here would.
        compress: makes each of them.

    Raises:
        UdfcError: the source or the grid cannot be served; a setting that fails alone is a row with its reason.
    """
    options = options or Options()
    provider = asked_provider(options)
    check_provider(provider)
    told, folder = callbacks or Silent(), Path(directory)
    content = _content(source)
    points = list(grid.points(options))
    data = _data_digest(content, options, labelled)
    tasks = [Task(name, point, _key(data, point, labelled)) for name, point in points]
    waiting = [task for task in tasks if _finished(folder, task) is None]
    worker = _Worker(content, folder, labelled, compress)
    if waiting:
        worker.read(waiting[0].options)  # refuses a bad file before there is a folder, or a process
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / "sweep.csv")  # now, not after the first setting
    share(folder)
    told.stage("sweep", len(tasks))
    told.advance(len(tasks) - len(waiting), "done before")
    if waiting and executor:
        _run_elsewhere(folder, waiting, executor, worker, told)
    elif waiting:
        _run_all(folder, waiting, jobs, worker, told)
    rows = {task.name: _finished(folder, task) or _failed(folder, task) for task in tasks}
    accuracy = None if labelled is None else accuracy_of(content, labelled, provider)
    name = Path(source).name if isinstance(source, str | Path) else "model"
    table = SweepTable(
        name,
        tuple(_timed(content, folder, tasks, rows, options, provider, told)),
        accuracy,
        file_report(content, file_bytes(content)),
        _command(name, Path(directory).name, grid, options, labelled),
        versions(),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_text(folder / "sweep.csv", table.to_csv())
    write_text(folder / "sweep.json", json.dumps(table.to_dict(), indent=2, allow_nan=False) + "\n")
    write_text(folder / "sweep.html", table.to_html())
    told.done()
    return table


def _command(name: str, folder: str, grid: Grid, options: Options, labelled: Labelled | None) -> str:
    """The command that makes the table again, but for data that were given in memory."""
    shared = replace(options, prune=Options().prune, bits=Options().bits, activations=Options().activations)
    words = shlex.split(command_line(shared.to_dict(), name, folder))
    for flag in ("prune", "bits", "activations"):
        values = getattr(grid, flag)
        if values != getattr(Grid(), flag):
            words += [f"--{flag}", ",".join("none" if v is None else str(v) for v in values)]
    if labelled is not None and isinstance(labelled.images, str | Path):
        words += ["--labelled", str(labelled.images)]
    return shlex.join([words[0], "sweep", *words[1:]])


def _timed(
    content: bytes | str,
    folder: Path,
    tasks: list[Task],
    rows: dict[str, SweepRow],
    options: Options,
    provider: Provider,
    told: Callbacks,
) -> Iterator[SweepRow]:
    """Rows with the time of one run, here and one after the other, so that no two disturb each other."""
    table = SweepTable("", tuple(rows.values()))
    front = {r.name for cost in ("bytes", "macs") for r in table.front(cost)}
    open_rows = [name for name, row in rows.items() if row.latency is None and not row.error]
    chosen = set(sorted(open_rows, key=lambda name: name not in front)[:MOST_TIMED])
    original = with_samples(content)
    feed = one_run(original, options.input_shape, options.seed, options.batch) if chosen else {}
    told.stage("measure latency", None)
    for task in tasks:
        row = rows[task.name]
        if task.name in chosen:
            model = with_samples(str(folder / f"{task.name}.onnx"), content)
            row = replace(row, latency=round(timed(original, model, feed, 1, SECONDS, provider).ratio, 4))
            _record_row(folder, task, row)
        yield row


def pick(table: SweepTable, directory: str | Path, wanted: Sequence[Requirement]) -> SweepTable:
    """Write the smallest file that meets what is wanted as picked.onnx; returns the table that says which.

    Raises:
        GateError: none does.
    """
    folder, row = Path(directory), table.pick(wanted)
    save(load(folder / f"{row.name}.onnx").model, folder / PICKED)
    return replace(table, picked=row.name)


def _content(source: Source) -> bytes | str:
    """What passes between processes: a path where there is one (external data lie beside it), else bytes."""
    if isinstance(source, onnx.ModelProto):
        return bytes(source.SerializeToString())
    return source if isinstance(source, bytes) else str(source)


def _key(data: str, options: Options, labelled: Labelled | None) -> str:
    """A hash of all files, of the options that change the result, and of what it is judged on."""
    without = {"threads", "verbose", "debug"}
    asked = {k: v for k, v in options.to_dict().items() if k not in without}
    text = json.dumps([data, this_tool().version, asked, str(labelled)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _data_digest(content: bytes | str, options: Options, labelled: Labelled | None) -> str:
    """A hash of the content of all files that a result depends on: the model, its weights beside it, and data."""
    digest = hashlib.sha256()
    files = [] if isinstance(content, bytes) else [Path(content), *sorted(weight_files(content))]
    if isinstance(content, bytes):
        digest.update(content)
    data = [options.calibrate, options.validate, *([labelled.images, labelled.labels] if labelled else [])]
    digest.update("".join(str(d) for d in data if isinstance(d, InMemory)).encode())
    for path in [Path(d) for d in data if isinstance(d, str) and d]:
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode() + b"\0" + _file_digest(file))
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    """A hash of the file; of a missing one nothing: who opens it reports it."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _run_all(folder: Path, tasks: list[Task], jobs: int, worker: _Worker, told: Callbacks) -> None:
    """Work through the tasks, here or in processes."""
    jobs = min(jobs, len(tasks))
    tasks = sorted(tasks, key=lambda task: trace_order(task.options))  # those that may share a run side by side
    if jobs <= 1:
        for task in tasks:
            worker(task)
            told.advance(1, task.name)
        return
    threads = max(1, cores() // jobs)
    shared = [replace(t, options=replace(t.options, threads=t.options.threads or threads)) for t in tasks]
    worker.original = None  # each process reads its own
    for task, fault in work_through(shared, worker, jobs, lambda task: trace_order(task.options), serve_parent):
        if fault:
            error = f"its process was ended ({fault}); if memory was short, fewer --jobs need less"
            _record_row(folder, task, _empty_row(task, error))
        told.advance(1, task.name)


def _run_elsewhere(folder: Path, tasks: list[Task], executor: str, worker: _Worker, told: Callbacks) -> None:
    """Work through the tasks on a cluster; the results come back and are written here."""
    work = _Remote(_whole(worker.content), worker.labelled, worker.compress)
    worker.original = None
    tasks = sorted(tasks, key=lambda task: trace_order(task.options))
    for task, found, fault in cluster.work_through(executor, tasks, work):
        row, model = found or (_empty_row(task, f"no worker could finish it ({fault})"), b"")
        if model:
            save(onnx.load_from_string(model), folder / f"{task.name}.onnx")
        _record_row(folder, task, row)
        told.advance(1, task.name)


def _whole(content: bytes | str) -> bytes:
    """A model with all its weights in one, as it travels."""
    if isinstance(content, bytes):
        return content
    if not weight_files(content):
        return Path(content).read_bytes()
    model = whole(onnx.load(content, load_external_data=False), Path(content).parent)
    if is_large(model):
        raise ModelError(f"{content}: above 2 GB, which --executor cannot send; use --jobs")
    return bytes(model.SerializeToString())


@dataclass
class _Remote:
    """Makes one setting after another on a worker; what it has read and run stays there with it."""

    content: bytes
    labelled: Labelled | None
    compress: Compress
    _worker: _Worker | None = None
    _lock: Any = None

    def __getstate__(self) -> tuple[bytes, Labelled | None, Compress]:
        """What travels."""
        return self.content, self.labelled, self.compress

    def __setstate__(self, state: tuple[bytes, Labelled | None, Compress]) -> None:
        """As it arrives; a worker of several threads makes one setting at a time, on all of them."""
        self.content, self.labelled, self.compress = state
        self._worker = _Worker(self.content, Path(), self.labelled, self.compress)
        self._lock = threading.Lock()

    def __call__(self, task: Task) -> tuple[SweepRow, bytes]:
        """One setting: its row, and its model; nothing where the row has an error."""
        assert self._worker is not None
        with self._lock:
            row, model = self._worker.made(task)
        return row, b"" if model is None else bytes(model.SerializeToString())


@dataclass
class _Worker:
    """Makes one setting after another; reads the original when it is first needed."""

    content: bytes | str
    folder: Path
    labelled: Labelled | None
    compress: Compress
    original: Original | None = None

    def read(self, options: Options) -> Original:
        """The original.

        Raises:
            UdfcError: it cannot be read.
        """
        if self.original is None:
            self.original = read_original(self.content, options)
        return self.original

    def __call__(self, task: Task) -> None:
        """One setting: its model, then its record."""
        row, model = self.made(task)
        if model is not None:
            try:
                save(model, self.folder / f"{task.name}.onnx")
            except UdfcError as error:
                row = replace(row, error=str(error), exit_code=error.exit_code)
        _record_row(self.folder, task, row)

    def made(self, task: Task) -> tuple[SweepRow, onnx.ModelProto | None]:
        """One setting: its row, and its model if there is one."""
        original = self.read(task.options)
        start, row, model = time.perf_counter(), _empty_row(task), None
        try:
            result = self.compress(self.content, task.options, original=original)
            row, model = _filled(row, result.report), result.model
            if self.labelled is not None:
                row = replace(row, accuracy=accuracy_of(model, self.labelled, asked_provider(task.options)))
        except UdfcError as error:
            row, model = replace(row, error=str(error), exit_code=error.exit_code), None
        return replace(row, seconds=round(time.perf_counter() - start, 2)), model


def _empty_row(task: Task, error: str = "") -> SweepRow:
    """What is known before a setting is done, or where it was lost."""
    asked = task.options
    return SweepRow(task.name, asked.prune, asked.bits, asked.activations, error=error, exit_code=1 if error else 0)


def _record_row(folder: Path, task: Task, row: SweepRow) -> None:
    if row.error and _read(folder, task).get("size") == _size(folder, task):
        (folder / f"{task.name}.onnx").unlink(missing_ok=True)  # of an earlier sweep: the table has it no more
    fields = {name: getattr(row, name) for name in row.__dataclass_fields__}
    record = {"key": task.key, "size": _size(folder, task), "row": fields}
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
        verdict=report.verdict,
        predicted_loss=report.predicted_loss,
    )


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: an exact copy has no SQNR."""
    return value if value is not None and np.isfinite(value) else None


def _size(folder: Path, task: Task) -> int | None:
    """Bytes of what was made of a task; None where nothing is there."""
    model = folder / f"{task.name}.onnx"
    return model.stat().st_size if model.is_file() else None


def _record(folder: Path, task: Task) -> dict[str, Any] | None:
    """What was written about a task, if it is about this very task and the file that is there."""
    found = _read(folder, task)
    known = (found.get("key"), found.get("size")) == (task.key, _size(folder, task))
    return found["row"] if known else None


def _read(folder: Path, task: Task) -> dict[str, Any]:
    """What stands in the file about a task, or about one of its name; empty where nothing does."""
    try:
        found = json.loads((folder / f"{task.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _finished(folder: Path, task: Task) -> SweepRow | None:
    """The row of a task that is done: recorded without an error, its model there."""
    row = _record(folder, task)
    if row is None or row["error"] or _size(folder, task) is None:
        return None
    return SweepRow(**row)


def _failed(folder: Path, task: Task) -> SweepRow:
    row = _record(folder, task)
    if row is None:  # we have written it
        raise RequestError(f"{folder}: something else writes {task.name} there; name another folder")
    return SweepRow(**row)


def accuracy_of(model: Source, labelled: Labelled, provider: Provider = CPU) -> float:
    """Share of the labelled images whose class is the largest output.

    Raises:
        UdfcError: the images do not fit the model.
    """
    images = labelled.open()
    session = open_session(with_samples(model), provider)
    given = session.get_inputs()[0]
    shape = [d if isinstance(d, int) and d > 0 else None for d in given.shape]
    dtype = np.float16 if "float16" in given.type else np.float32
    size = shape[0] or _BATCH
    batches = images.batches(shape, labelled.preprocessing, size, labelled.limit)
    found = [_classes(session, given.name, x.astype(dtype), size) for x in batches]
    answers = np.concatenate(found)
    assert images.labels is not None
    return float((answers == images.labels[: len(answers)]).mean())


def _classes(session: Any, name: str, x: np.ndarray, size: int) -> np.ndarray:
    """(n,) the largest output for each of n ≤ `size` images; the last one fills the batch up."""
    full = np.concatenate([x, np.repeat(x[-1:], size - len(x), axis=0)])
    answers: np.ndarray = session.run(None, {name: full})[0].reshape(size, -1).argmax(1)[: len(x)]
    return answers


def swept(
    source: Source,
    directory: str | Path,
    options: Options,
    asked: Sweeping,
    callbacks: Callbacks | None = None,
    *,
    compress: Compress,
) -> SweepTable:
    """Compress in many settings by checked options.

    Raises:
        UdfcError: As `sweep`.
    """
    if options.for_ is not None or options.max_loss is not None or options.dry_run:
        raise CombinationError("--for, --max-loss and --dry-run are for one file; sweep has --pick")

    if asked.labels and not asked.labelled:
        raise CombinationError(f"--labels {asked.labels}: of which images? add --labelled DATA")
    if Path(directory).exists() and not Path(directory).is_dir():
        raise RequestError(f"{directory}: is a file; name a folder for what comes out")
    size = Path(source).stat().st_size if isinstance(source, (str, Path)) and Path(source).is_file() else 0
    labelled = Labelled(asked.labelled, asked.labels, asked_preprocessing(options)) if asked.labelled else None
    grid = Grid(asked.prune, asked.bits, asked.activations)
    jobs = asked.jobs or fitting_jobs(size)
    table = sweep(source, directory, grid, options, jobs, labelled, callbacks, asked.executor, compress=compress)
    return pick(table, directory, asked.pick) if asked.pick else table
