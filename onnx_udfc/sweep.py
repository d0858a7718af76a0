"""Many compressions of one network: the original is looked at once, what is done is not done again.

Each finished setting leaves `NAME.onnx` and `NAME.json` in the folder; the second is written last and holds a
fingerprint of the original, the options and this version, so that a sweep that was stopped, or that is asked for more
settings, continues. At the end come `sweep.csv`, `sweep.json` and `sweep.html`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from onnx_udfc.accuracy import top1
from onnx_udfc.compress import compress_prepared, prepare
from onnx_udfc.errors import RequestError, UdfcError
from onnx_udfc.grid import Grid
from onnx_udfc.labelled_images import Labelled
from onnx_udfc.options import Options
from onnx_udfc.progress import Callbacks, Silent
from onnx_udfc.report import Report, this_tool
from onnx_udfc.sweep_table import SweepRow, SweepTable

RESULTS = "sweep"  # name of the tables in the folder


@dataclass(frozen=True)
class _Point:
    """One setting: where its result goes, and what it must have been made of to count as done."""

    name: str
    options: Options
    folder: Path
    fingerprint: str

    @property
    def model(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    def done(self) -> SweepRow | None:
        """Return the row of an earlier run of the same sweep."""
        try:
            stored = json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8"))
            row = SweepRow(**stored["row"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or not whole: it is done again
        return row if stored.get("fingerprint") == self.fingerprint and (row.error or self.model.exists()) else None

    def store(self, row: SweepRow) -> None:
        """Note that the setting is done."""
        path = self.folder / f"{self.name}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": self.fingerprint, "row": asdict(row)}, indent=1), encoding="utf-8")
        part.replace(path)


def sweep(
    source: str | Path,
    directory: str | Path,
    grid: Grid,
    options: Options | None = None,
    jobs: int = 1,
    labelled: Labelled | None = None,
    callbacks: Callbacks | None = None,
) -> SweepTable:
    """Compress a network in every setting of a grid.

    Args:
        source: Path of the original.
        directory: Folder for the results; made if it is not there.
        grid: Ratios, bits and activations to combine.
        options: Everything else.
        jobs: Processes; each looks at the original once.
        labelled: Labelled images, for real accuracy.
        callbacks: Told about progress.

    Raises:
        UdfcError: The original or the request cannot be served. A setting that fails alone is a row with its reason.
    """
    options, callbacks = options or Options(), callbacks or Silent()
    if jobs < 1:
        raise RequestError(f"--jobs {jobs}: must be at least 1")
    folder = Path(directory)
    points = _points(Path(source), folder, grid, options, labelled, jobs)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {p.name: row for p in points if (row := p.done()) is not None}
    left = [p for p in points if p.name not in rows]
    callbacks.stage("sweep", len(points))
    callbacks.advance(len(rows), "done before")
    for part in _run(str(source), left, labelled, jobs, callbacks):
        rows |= {row.name: row for row in part}
    accuracy = top1(source, labelled, options.threads) if labelled is not None else None
    table = SweepTable(Path(source).name, tuple(rows[p.name] for p in points), accuracy)
    _write(table, folder)
    callbacks.done()
    return table


def _points(
    source: Path, folder: Path, grid: Grid, options: Options, labelled: Labelled | None, jobs: int
) -> list[_Point]:
    """Return all settings, checked; several processes share the processors."""
    if not source.is_file():
        raise RequestError(f"{source}: no such file")
    if jobs > 1 and options.threads is None:
        options = replace(options, threads=max(1, (os.cpu_count() or 1) // jobs))
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    made_of = [content, this_tool().version, repr(labelled)]
    result = []
    for name, point in grid.points(options):
        told = json.dumps([*made_of, point.to_dict()], sort_keys=True)
        result.append(_Point(name, point, folder, hashlib.sha256(told.encode()).hexdigest()))
    return result


def _run(
    source: str, points: Sequence[_Point], labelled: Labelled | None, jobs: int, callbacks: Callbacks
) -> list[list[SweepRow]]:
    """Do what is left, in this process or in several."""
    if not points:
        return []
    if jobs == 1:
        return [_work(source, points, labelled, callbacks)]
    parts = [points[i::jobs] for i in range(min(jobs, len(points)))]
    done: list[list[SweepRow]] = []
    with ProcessPoolExecutor(len(parts), multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[list[SweepRow]]] = [pool.submit(_work, source, part, labelled) for part in parts]
        for future in as_completed(futures):
            done.append(future.result())
            callbacks.advance(len(done[-1]))
    return done


def _work(
    source: str, points: Sequence[_Point], labelled: Labelled | None, callbacks: Callbacks | None = None
) -> list[SweepRow]:
    """Do several settings with one look at the original."""
    original = prepare(source, points[0].options)
    rows = []
    for point in points:
        start = time.perf_counter()
        try:
            result = compress_prepared(original, point.options)
            result.save(point.model)
            accuracy = top1(point.model, labelled, point.options.threads) if labelled is not None else None
            row = _row(point, result.report, accuracy, time.perf_counter() - start)
        except UdfcError as error:
            row = replace(_row(point), error=str(error))
        point.store(row)
        rows.append(row)
        if callbacks is not None:
            callbacks.advance(1, point.name)
    return rows


def _row(
    point: _Point, report: Report | None = None, accuracy: float | None = None, seconds: float | None = None
) -> SweepRow:
    o = point.options
    row = SweepRow(point.name, o.prune, o.bits, o.activations)
    if report is None:
        return row
    return replace(
        row,
        parameters=report.measured("params"),
        macs=report.measured("macs"),
        bytes=report.measured("bytes"),
        sqnr_db=report.fidelity.sqnr_db,
        cosine=report.fidelity.cosine,
        agreement=report.fidelity.agreement,
        accuracy=accuracy,
        seconds=seconds,
    )


def _write(table: SweepTable, folder: Path) -> None:
    (folder / f"{RESULTS}.csv").write_text(table.to_csv(), encoding="utf-8")
    (folder / f"{RESULTS}.html").write_text(table.to_html(), encoding="utf-8")
    text = json.dumps(table.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / f"{RESULTS}.json").write_text(text + "\n", encoding="utf-8")
