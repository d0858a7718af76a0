"""What compressed files gain on a GPU: makes the files, runs them there, prints the table.

    python -m tools gpu_table make FOLDER [--networks resnet56 resnet50 mobilenet_v2 squeezenet]
    python FOLDER/gpu_table.py run FOLDER [--provider cuda] [--batches 1 64] [--minutes 3.5]

The first needs this package; it writes the files, a list of them, and this script into the folder. The second needs
nothing but numpy and onnxruntime-gpu (`--provider cpu` for a dry run with any onnxruntime), and never takes longer than
it is given: what there was no time for is left blank, and said.

Each row is a file against the float32 original of its network, both on the provider: the median of paired ratios of
their times, runs in turn; the nodes that another provider ran and the copies between devices in one run; how far the
outputs are from those of the same file on the processor, as a share of the largest. A provider that falls back is an
error, exit code 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIST = "files.json"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
LEAST, MOST, SECONDS = 5, 50, 1.0  # rounds of a measurement, and seconds after which LEAST are enough


@dataclass
class Runner:
    """Runs files on a provider until the time is up."""

    folder: Path
    provider: str
    batches: Sequence[int]
    until: float
    seconds: float = SECONDS
    feeds: dict[int, dict[str, Any]] = field(default_factory=dict)

    def rows(self, network: dict[str, Any]) -> Iterator[tuple[str, ...]]:
        """The rows of one network, as printed."""
        import numpy as np

        random = np.random.default_rng(0)
        shape = network["shape"]
        fitting = [n for n in self.batches if shape[0] in (0, n)]
        self.feeds = {n: {network["input"]: random.normal(size=(n, *shape[1:])).astype("f4")} for n in fitting}
        original = self.session(network["original"])
        for row in network["files"]:
            yield self.row(network, original, row)

    def row(self, network: dict[str, Any], original: Any, row: dict[str, Any]) -> tuple[str, ...]:
        """One file against the original's session."""
        size = f"{(self.folder / row['file']).stat().st_size / 1e6:.2f}"
        begin = (network["name"], row["label"], size)
        if time.monotonic() > self.until:
            return (*begin, "", *[""] * (len(self.batches) + 1))
        session = self.session(row["file"], row, profiled=True)
        smallest = self.feeds[min(self.feeds)]
        (first, *_) = session.run(None, smallest)
        elsewhere, copies = self.placed(session.end_profiling())
        ratios = [self.ratio(original, session, n) if n in self.feeds else "" for n in self.batches]
        far = self.difference(first, row["file"], row, smallest)
        return (*begin, f"{elsewhere} / {copies}", *ratios, far)

    def session(
        self, file: str, row: dict[str, Any] | None = None, profiled: bool = False, provider: str | None = None
    ) -> Any:
        """A session on the provider that was asked for, and on no other."""
        import onnxruntime as ort

        name = PROVIDERS[provider or self.provider]
        settings = (row or {}).get("provider_option", {}) if name != PROVIDERS["cpu"] else {}
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = profiled
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "gpu_table")
        for key, value in (row or {}).get("session", {}).items():
            options.add_session_config_entry(key, value)
        if name not in ort.get_available_providers():
            sys.exit(f"this onnxruntime has no {name}: install onnxruntime-gpu")
        chain = [(name, settings), *([PROVIDERS["cpu"]] if name != PROVIDERS["cpu"] else [])]
        try:
            session = ort.InferenceSession(str(self.folder / file), options, providers=chain, enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            sys.exit(f"{name} makes no session of {file}: {' '.join(str(error).split())[:300]}")
        if session.get_providers()[0] != name:
            sys.exit(f"{name} is in this onnxruntime but does not load: look for its libraries, device and driver")
        return session

    def placed(self, profile: str) -> tuple[int, int]:
        """How many nodes ran elsewhere, and how many copies there were, by a profile, which is removed."""
        path = Path(profile)
        told = [e["args"] for e in json.loads(path.read_text("utf-8")) if e.get("name", "").endswith("_kernel_time")]
        path.unlink()
        copies = [one for one in told if one["op_name"].startswith("Memcpy")]
        others = [one for one in told if one["provider"] != PROVIDERS[self.provider] and one not in copies]
        return len(others), len(copies)

    def ratio(self, original: Any, session: Any, batch: int) -> str:
        """The median of paired ratios."""
        feed = self.feeds[batch]
        found: list[float] = []
        for running in (original, session) * 2:
            running.run(None, feed)
        start = time.monotonic()
        while len(found) < LEAST or (len(found) < MOST and time.monotonic() - start < self.seconds):
            times = []
            for running in (original, session):
                began = time.perf_counter()
                running.run(None, feed)
                times.append(time.perf_counter() - began)
            found.append(times[1] / times[0])
        return f"{statistics.median(found):.2f}"

    def difference(self, there: Any, file: str, row: dict[str, Any], feed: dict[str, Any]) -> str:
        """The largest difference to the processor's outputs, as a share of their largest."""
        import numpy as np

        (here, *_) = self.session(file, row, provider="cpu").run(None, feed)
        wide = np.asarray(here, np.float64)
        return f"{np.abs(np.asarray(there, np.float64) - wide).max() / max(np.abs(wide).max(), 1e-30):.0e}"


def run(folder: Path, provider: str, batches: Sequence[int], minutes: float, seconds: float) -> int:
    """Print the table; the exit code is 1 where there was no time for all of it."""
    runner = Runner(folder, provider, batches, time.monotonic() + 60 * minutes, seconds)
    if not (folder / LIST).exists():
        sys.exit(f"{folder}: no {LIST}; make the files first")
    networks = json.loads((folder / LIST).read_text("utf-8"))
    columns = (
        "network",
        "file",
        "MB",
        f"nodes not on {provider} / copies",
        *(f"batch {n}" for n in batches),
        "differs",
    )
    print("", *columns, "", sep=" | ", flush=True)
    print("|---" * len(columns) + "|")
    blank = 0
    for network in networks:
        for row in runner.rows(network):
            blank += row[3] == ""
            print("", *row, "", sep=" | ", flush=True)
    if blank:
        print(f"no time was left for {blank} rows; give --minutes more", file=sys.stderr)
    return 1 if blank else 0


def main() -> None:
    """Make the files, or run them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["make", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", help="make: only these")
    parser.add_argument("--provider", choices=PROVIDERS, default="cuda")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--minutes", type=float, default=3.5, help="run: after which nothing new is begun")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="run: of each measurement")
    args = parser.parse_args()
    if args.what == "run":
        sys.exit(run(args.folder, args.provider, args.batches, args.minutes, args.seconds))
    from tools.measure.gpu_files import make

    make(args.folder, args.networks)


if __name__ == "__main__":
    main()
