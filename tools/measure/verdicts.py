"""Predicted against real losses: makes compressed files, judges them, and prints the table and the bar.

    python -m tools verdicts make CACHE [--network NAME …] [--setting b8 …]     compress, judge and score (hours)
    python -m tools verdicts judge CACHE [--network NAME …]                     judge anew what is not judged (minutes)
    python -m tools verdicts table CACHE                                        print the table and the bar

Everything is kept under CACHE, and what is there is not done again: delete a file to have it made anew. Files and real
scores are made once; when only the measures change, delete the `.judged.json` files and judge anew.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_udfc.errors import UdfcError
from onnx_udfc.evaluate.final_check import check_result
from onnx_udfc.evaluate.parts import PartFidelity
from onnx_udfc.evaluate.report import Fidelity, OutputFidelity, plain
from onnx_udfc.evaluate.verdict import Judgement
from onnx_udfc.evaluate.verdict import judge as verdict_of
from onnx_udfc.model.network import Network
from onnx_udfc.original import Original, read_original
from onnx_udfc.pipeline import compress
from tools.measure.verdict_cases import FURTHER, SETTINGS, RealNetwork, networks, real_scores

PATIENCE = 400  # seconds for one file


def cases(
    cache: Path, chosen: Sequence[RealNetwork], settings: Sequence[str], calibrated: Sequence[bool]
) -> Iterator[tuple[RealNetwork, str, bool, Path]]:
    """Network, setting, whether calibrated, and where its file is."""
    for with_data in calibrated:
        for network in chosen:
            if with_data and network.calibrate is None:
                continue
            for setting in settings:
                name = f"{setting}_cal" if with_data else setting
                yield network, setting, with_data, cache / network.name / f"{name}.onnx"


def make(cache: Path, chosen: Sequence[RealNetwork], settings: Sequence[str], calibrated: Sequence[bool]) -> None:
    """Compress and score what is not there yet."""
    shared: tuple[str, Original] | None = None
    for network, setting, with_data, path in cases(cache, chosen, settings, calibrated):
        record = path.with_suffix(".real.json")
        if record.exists() and "failed" not in json.loads(record.read_text()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        key = f"{network.name} {with_data}"
        if shared is None or shared[0] != key:
            shared = key, read_original(network.path, network.asked(setting, with_data))
        start = time.perf_counter()
        found = _made(network, setting, with_data, path, shared[1])
        found["seconds"] = round(time.perf_counter() - start, 1)
        record.write_text(json.dumps(found))
        print(network.name, path.stem, found, flush=True)


def _made(network: RealNetwork, setting: str, with_data: bool, path: Path, original: Original) -> dict[str, Any]:
    """Write one file, where it is not there, what the tool says of it, and what it really scores."""
    signal.alarm(PATIENCE)
    try:
        if not path.exists():
            result = compress(network.path, network.asked(setting, with_data), original=original)
            judged = {"fidelity": plain(result.report.fidelity)}
            path.with_suffix(".judged.json").write_text(json.dumps(judged))
            path.write_bytes(result.model.SerializeToString())
        signal.alarm(0)
        before, after = real_scores(network, path)
    except (UdfcError, TimeoutError) as error:
        return {"refused": str(error)}
    except Exception as error:  # of the scorers: onnxruntime's share no base class
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        signal.alarm(0)
    return {"original": before, "compressed": after}


def judge(cache: Path, chosen: Sequence[RealNetwork], settings: Sequence[str], calibrated: Sequence[bool]) -> None:
    """Look at every file that is there and not judged yet, on the inputs of the final check."""
    last: tuple[Path, Network] | None = None
    for network, setting, with_data, path in cases(cache, chosen, settings, calibrated):
        record = path.with_suffix(".judged.json")
        if record.exists() or not path.exists():
            continue
        if last is None or last[0] != network.path:
            last = network.path, read_original(network.path, network.options).network
        start = time.perf_counter()
        try:
            checked = check_result(network.path, last[1], onnx.load(path), network.asked(setting, with_data))
            found = {"fidelity": plain(checked.fidelity), "notes": list(checked.notes)}
        except UdfcError as error:
            found = {"refused": str(error)}
        record.write_text(json.dumps(found))
        print(network.name, path.stem, f"{time.perf_counter() - start:.1f} s", flush=True)


@dataclass(frozen=True)
class Row:
    """One line of the table: what was really lost, and what was said."""

    network: str
    setting: str
    real: float
    judgement: Judgement


def rows(cache: Path) -> list[Row]:
    """All cases that were made, scored and judged."""
    found = []
    for record in sorted(cache.glob("*/*.real.json")):
        real = json.loads(record.read_text())
        judged = record.with_name(record.name.replace(".real.", ".judged."))
        fidelity = json.loads(judged.read_text()).get("fidelity") if judged.exists() else None
        if fidelity is not None and real.get("original"):
            loss = min(1.0, max(0.0, 1 - real["compressed"] / real["original"]))
            setting = record.name.removesuffix(".real.json")
            found.append(Row(record.parent.name, setting, loss, verdict_of(_fidelity(fidelity))))
    return found


def _fidelity(given: dict[str, Any]) -> Fidelity:
    """Figures as they were written."""
    outputs = [OutputFidelity(**{**o, "parts": tuple(PartFidelity(**p) for p in o["parts"])}) for o in given["outputs"]]
    return Fidelity(**{**given, "outputs": tuple(outputs)})


def table(cache: Path) -> None:
    """Print every case, Spearman's correlation, and what violates the bar."""
    found = rows(cache)
    print("| network | setting | real loss | predicted | range | verdict |\n|---|---|---|---|---|---|")
    for r in found:
        j = r.judgement
        predicted = "–" if j.loss is None else f"{j.loss:.3f}"
        span = "–" if j.span is None else f"{j.span[0]:.3f} to {j.span[1]:.3f}"
        print(f"| {r.network} | {r.setting} | {r.real:.3f} | {predicted} | {span} | {j.verdict} |")
    known = [(r.real, r.judgement.loss) for r in found if r.judgement.loss is not None]
    real, predicted_losses = np.array(known, np.float64).T
    print(f"\nSpearman's correlation over {len(known)} of {len(found)}: {spearman(real, predicted_losses):.3f}")
    for r in found:
        if r.judgement.verdict == "good" and r.real >= 1 / 3:
            print(f"violation: {r.network} {r.setting} lost {r.real:.3f} and is called good")
        if r.judgement.verdict == "unusable" and r.real < 0.02:
            print(f"violation: {r.network} {r.setting} lost {r.real:.3f} and is called unusable")


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of ranks; equal values share the mean of theirs."""
    first, second = (_ranks(v) for v in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[at], np.float64)


def _late(_signum: int, _frame: object) -> None:
    raise TimeoutError("takes too long")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("make", "judge", "table"))
    parser.add_argument("cache", type=Path)
    parser.add_argument("--network", action="append", default=[])
    parser.add_argument("--setting", action="append", default=[], choices=[*SETTINGS, *FURTHER])
    parser.add_argument("--data", choices=("without", "with", "both"), default="both")
    given = parser.parse_args()
    chosen = [n for n in networks() if not given.network or n.name in given.network]
    calibrated = {"without": (False,), "with": (True,), "both": (False, True)}[given.data]
    signal.signal(signal.SIGALRM, _late)
    if given.what == "table":
        table(given.cache)
        return
    step = {"make": make, "judge": judge}[given.what]
    step(given.cache, chosen, given.setting or list(SETTINGS | FURTHER), calibrated)


if __name__ == "__main__":
    main()
