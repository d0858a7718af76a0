"""Peers side by side: the same files, the same machine, one run; accuracy, bytes, latency, time taken and peak memory.

    python -m tools benchmark --setup out/peers                     (once: an environment for each peer, by pip)
    python -m tools benchmark --peers out/peers --networks "resnet56_cifar10_bn" --out out/benchmark

Every peer, and this project's own command line, runs in a process of its own with as many threads as --threads. Peers
that want inputs get 64 real images or as many of Gaussian noise, as the table says; ours gets none. Latency is the
median ratio to the original, both run in turn, batch 1, one thread, onnxruntime on the CPU. Peak memory is of the whole
process.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from onnx_udfc.runtime.latency import Run, paired_latency
from tools.measure.catalog import Classifier, classifiers, image_sets
from tools.measure.evaluate import session
from tools.measure.peers import PEERS, Peer

REAL_IMAGES = 64
OURS = {
    "prune 0.5": ("--prune", "0.5"),
    "prune 0.5, method udfc": ("--prune", "0.5", "--method", "udfc"),
    "prune 0.5, method merge": ("--prune", "0.5", "--method", "merge"),
    "prune 0.5, allocate uniform": ("--prune", "0.5", "--allocate", "uniform"),
    "bits 8": ("--bits", "8"),
    "bits 4": ("--bits", "4"),
    "bits 2": ("--bits", "2"),
    "bits 8, activations 8": ("--bits", "8", "--activations", "8"),
    "bits 4, activations 8": ("--bits", "4", "--activations", "8"),
    "prune 0.5, bits 8, activations 8": ("--prune", "0.5", "--bits", "8", "--activations", "8"),
    "prune 0.5, bits 4": ("--prune", "0.5", "--bits", "4"),
}


@dataclass(frozen=True)
class Outcome:
    """What a process left behind: seconds of its life and of the CPU, bytes at its peak, an error if it failed."""

    seconds: float
    cpu_seconds: float
    memory: int
    output: str
    error: str | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table; what could not be measured is None, and `note` says why."""

    network: str
    tool: str
    inputs: str
    top1: float | None = None
    bytes: int | None = None
    latency: float | None = None
    spread: tuple[float, float] | None = None
    seconds: float | None = None
    process_seconds: float | None = None
    cpu_seconds: float | None = None
    memory: int | None = None
    note: str = ""


_WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
"""


def measured_process(command: list[str], threads: int) -> Outcome:
    """Runs a command to its end; its own peak memory comes from a small process in between.

    A process starts with its parent's peak as its own (Linux keeps it over exec), so a large parent must not start it.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    # unbuffered, or what a Python printed comes after what it ended with
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONUNBUFFERED": "1"}
    begun = time.perf_counter()
    watched = [sys.executable, "-S", "-c", _WATCH, *command]
    done = subprocess.run(watched, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - begun
    code, processor, peak = done.stderr.splitlines()[-1].split()
    error = None if code == "0" else _last_line(done.stdout)
    return Outcome(seconds, float(processor), int(peak) * 1024, done.stdout, error)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "no output"


def interpreter(peer: Peer, environments: Path | None) -> Path | None:
    """The Python that has the peer, or None; peers without an environment live in this one."""
    if not peer.environment:
        return Path(sys.executable)
    path = environments / peer.environment / "bin" / "python" if environments else None
    return path if path and path.exists() else None


def setup(environments: Path) -> None:
    """Makes an environment for each peer by pip, on top of the packages of this one, and says which ones failed."""
    here = [path for path in sys.path if path.endswith("site-packages")]
    for name, install in {p.environment: p.install for p in PEERS.values() if p.environment}.items():
        folder = environments / name
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        site = next((folder / "lib").glob("python*")) / "site-packages"
        (site / "base.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
        for arguments in install:
            outcome = measured_process([str(folder / "bin/python"), "-m", "pip", "install", "-q", *arguments], 1)
            print(f"{name}: pip install {' '.join(arguments)}: {outcome.error or 'installed'}", flush=True)


def calibration(network: Classifier, kind: str, folder: Path) -> Path:
    """An .npz with x (64, C, H, W) for peers that want inputs."""
    path = folder / f"{network.name}.{kind}.npz"
    source = image_sets(evaluation=False).get(network.dataset, network.images)
    x = network.inputs(source, REAL_IMAGES)
    if kind == "gaussian":
        x = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    np.savez(path, x=x)
    return path


def latency(original: Path, made: Path, x: np.ndarray, seconds: float) -> tuple[float, tuple[float, float]]:
    """The median of made/original, batch 1, and its interval."""

    def run(path: Path) -> Run:
        opened = session(path)
        feed = {opened.get_inputs()[0].name: x}
        return lambda: opened.run(None, feed)

    result = paired_latency(partial(run, original), partial(run, made), seconds)
    return result.ratio, (result.low, result.high)


def peer_row(network: Classifier, name: str, args: argparse.Namespace) -> Row:
    """One peer on one network."""
    peer = PEERS[name]
    python = interpreter(peer, args.peers)
    row = Row(network.name, peer.label, peer.inputs)
    if python is None:
        return dataclasses.replace(row, note="not installed here")
    out = args.out / "models" / f"{network.name}.{name}.onnx"
    inputs = calibration(network, "gaussian" if peer.inputs == "gaussian" else "real", args.out)
    script = str(Path(__file__).with_name("peers.py"))
    with tempfile.TemporaryDirectory() as folder:  # a copy: one peer writes the shapes that it infers into its source
        source = shutil.copyfile(network.path, Path(folder) / network.path.name)
        command = [str(python), script, name, str(source), str(out), "--inputs", str(inputs)]
        outcome = measured_process(command, args.threads)
    return finished(row, network, out, outcome, _own_seconds(outcome), args)


def _own_seconds(outcome: Outcome) -> float | None:
    return None if outcome.error else float(outcome.output.split()[-1])


def our_row(network: Classifier, label: str, args: argparse.Namespace) -> Row:
    """One setting of this project's command line on one network."""
    row = Row(network.name, f"onnx-udfc, {label}", "none")
    out = args.out / "models" / f"{network.name}.{label.replace(', ', '+').replace(' ', '_')}.onnx"
    program = str(Path(sys.executable).with_name("onnx-udfc"))
    preprocessing = network.preprocessing
    expects = {
        "--input-mean": preprocessing.mean,
        "--input-std": preprocessing.std,
        "--input-range": preprocessing.range,
    }
    options = [part for key, values in expects.items() for part in (key, ",".join(map(str, values)))]
    setting = [*OURS[label], *options, "--threads", str(args.threads), "--quiet"]
    outcome = measured_process([program, str(network.path), str(out), *setting], args.threads)
    return finished(row, network, out, outcome, None, args)


def finished(
    row: Row, network: Classifier, out: Path, outcome: Outcome, own: float | None, args: argparse.Namespace
) -> Row:
    """The row with everything measured on the file that was made."""
    row = dataclasses.replace(
        row, seconds=own, process_seconds=outcome.seconds, cpu_seconds=outcome.cpu_seconds, memory=outcome.memory
    )
    if outcome.error:
        return dataclasses.replace(row, note=outcome.error)
    try:
        top1 = network.top1(out, args.threads, args.limit)
        x = network.inputs(network.images, 1)
        ratio, spread = latency(network.path, out, x, args.latency_seconds)
    except Exception as error:  # a peer's file may fail in onnxruntime in any way: that is a result, not our failure
        return dataclasses.replace(row, bytes=out.stat().st_size, note=" ".join(str(error).split())[:160])
    return dataclasses.replace(row, top1=top1, bytes=out.stat().st_size, latency=ratio, spread=spread)


def markdown(rows: list[Row], originals: dict[str, Row]) -> str:
    """The table, one block a network, the original first."""
    lines = [
        "| network | tool | inputs | top-1 % | MB | × bytes | × latency | s | s with start-up | CPU s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, original in originals.items():
        lines += [_line(row, original) for row in [original, *(r for r in rows if r.network == name)]]
    return "\n".join(lines) + "\n"


def _line(row: Row, original: Row) -> str:
    assert original.bytes is not None
    if row.note:
        return f"| {row.network} | {row.tool} | {row.inputs} | {row.note} | | | | | | | |"
    assert row.bytes is not None
    spread = f" ({row.spread[0]:.2f}–{row.spread[1]:.2f})" if row.spread else ""
    cells = [
        row.network,
        row.tool,
        row.inputs,
        _number(row.top1, 2),
        f"{row.bytes / 1e6:.2f}",
        f"{row.bytes / original.bytes:.3f}",
        _number(row.latency, 2) + spread,
        _number(row.seconds, 1),
        _number(row.process_seconds, 1),
        _number(row.cpu_seconds, 1),
        _number(row.memory / 1e6 if row.memory else None, 0),
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", type=Path, metavar="DIR", help="make the peers' environments there and stop")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where --setup made the environments")
    parser.add_argument("--networks", nargs="+", default=["resnet56_cifar10_bn"], help="file names or patterns")
    parser.add_argument("--only", nargs="+", default=[], help="these peers and settings only, by name")
    parser.add_argument("--out", type=Path, default=Path("out/benchmark"))
    parser.add_argument("--limit", type=int, help="at most so many images a network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latency-seconds", type=float, default=4.0)
    return parser.parse_args()


def main() -> None:
    """Runs everything, prints the table and writes it as Markdown and JSON."""
    args = arguments()
    if args.setup:
        setup(args.setup)
        return
    (args.out / "models").mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    originals: dict[str, Row] = {}
    networks = classifiers(args.networks)
    if not networks:
        raise SystemExit(f"benchmark: no labelled network is called {' or '.join(args.networks)}")
    for network in networks:
        size = network.path.stat().st_size
        originals[network.name] = Row(
            network.name, "original", "", network.top1(network.path, args.threads, args.limit), size, 1.0
        )
        print(_line(originals[network.name], originals[network.name]), flush=True)
        for make, names in ((peer_row, PEERS), (our_row, OURS)):
            for name in names:
                if not args.only or name in args.only:
                    rows.append(make(network, name, args))
                    print(_line(rows[-1], originals[network.name]), flush=True)
    (args.out / "benchmark.md").write_text(markdown(rows, originals), encoding="utf-8")
    table = [dataclasses.asdict(row) for row in [*originals.values(), *rows]]
    (args.out / "benchmark.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
