"""Predicted against real losses: makes compressed files, judges them, and prints the table and the bar.

    python -m tools.verdicts make CACHE [--network NAME …] [--setting b8 …]     compress and score (hours)
    python -m tools.verdicts judge CACHE [--network NAME …]                     predict the loss of each file (minutes)
    python -m tools.verdicts table CACHE                                        print the table and the bar

Everything is kept under CACHE, and what is there is not done again: delete a file to have it made anew. Files and real
scores are made once; when only the measures change, `judge --again` looks at the same files anew.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_udfc.errors import UdfcError
from onnx_udfc.original import Original, read_original
from onnx_udfc.pipeline import compress
from tools.verdict_cases import FURTHER, SETTINGS, RealNetwork, networks, real_scores

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
        if record.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        options = network.asked(setting, with_data)
        start = time.perf_counter()
        signal.alarm(PATIENCE)
        found: dict[str, Any] = {}
        try:
            if options.activations is None:  # a trace for whole numbers is another one
                key = f"{network.name} {with_data}"
                if shared is None or shared[0] != key:
                    shared = key, read_original(network.path, replace(options, prune=0.5, bits=4))
                result = compress(network.path, options, original=shared[1])
            else:
                result = compress(network.path, options)
            path.write_bytes(result.model.SerializeToString())
            signal.alarm(0)
            original, compressed = real_scores(network, path)
            found = {"original": original, "compressed": compressed, "sqnr_db": result.report.fidelity.sqnr_db}
        except (UdfcError, TimeoutError) as error:
            found = {"refused": str(error)}
            shared = None
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
        finally:
            signal.alarm(0)
        found["seconds"] = round(time.perf_counter() - start, 1)
        record.write_text(json.dumps(found))
        print(network.name, path.stem, found, flush=True)


def _late(_signum: int, _frame: object) -> None:
    raise TimeoutError("takes too long")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("make",))
    parser.add_argument("cache", type=Path)
    parser.add_argument("--network", action="append", default=[])
    parser.add_argument("--setting", action="append", default=[], choices=[*SETTINGS, *FURTHER])
    parser.add_argument("--data", choices=("without", "with", "both"), default="both")
    given = parser.parse_args()
    chosen = [n for n in networks() if not given.network or n.name in given.network]
    calibrated = {"without": (False,), "with": (True,), "both": (False, True)}[given.data]
    signal.signal(signal.SIGALRM, _late)
    make(given.cache, chosen, given.setting or list(SETTINGS), calibrated)


if __name__ == "__main__":
    main()
