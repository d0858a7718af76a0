"""The tables of docs/allocation.md: what ratios, budgets and free counts leave of the networks in assets/.

    python -m tools.allocation macs params compact bytes [--networks resnet20_cifar10_bn ...]

Every row is one compression through the package; the original is traced once for each network. Accuracy is on the dev
images of the manifest (tools/evaluate.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from onnx_udfc.compress import Original, compress, read_original
from onnx_udfc.errors import UdfcError
from onnx_udfc.options import Options
from tools.evaluate import ASSETS, accuracy

RESNETS = ("resnet56_cifar10_bn", "resnet56_cifar10_folded", "resnet20_cifar10_bn", "resnet20_cifar10_folded")
COMPACT = ("mobilenet_v2_imagenet_folded", "squeezenet_v1.1_imagenet", "mobilenet_v1_0.25_imagenet_bn")


@dataclass(frozen=True)
class Row:
    """One compression."""

    network: str
    options: Options


def macs_rows() -> Iterator[Row]:
    """Equal MACs: uniform ratios, free counts, and budgets of the whole network."""
    for network in RESNETS:
        for ratio in (0.3, 0.5, 0.7):
            yield Row(network, Options(prune=ratio, allocate="uniform"))
            yield Row(network, Options(prune=ratio, allocate="global"))
        for share in ("0.5", "0.3"):
            yield Row(network, Options(budget={"macs": share}, allocate="uniform"))
            yield Row(network, Options(budget={"macs": share}))


def params_rows() -> Iterator[Row]:
    """Equal parameters."""
    for network in RESNETS:
        for share in ("0.5", "0.3"):
            yield Row(network, Options(budget={"params": share}, allocate="uniform"))
            yield Row(network, Options(budget={"params": share}))


def compact_rows() -> Iterator[Row]:
    """Compact networks at equal MACs."""
    for network in COMPACT:
        for ratio in (0.1, 0.2):
            yield Row(network, Options(prune=ratio, allocate="uniform"))
            yield Row(network, Options(prune=ratio, allocate="global"))


def bytes_rows() -> Iterator[Row]:
    """Bytes, with bits chosen."""
    for share in ("0.06", "0.08", "0.1"):
        yield Row("resnet56_cifar10_bn", Options(bits="auto", budget={"bytes": share}))
    for share in ("0.12", "0.14"):
        yield Row("squeezenet_v1.1_imagenet", Options(bits="auto", budget={"bytes": share}))


TABLES = {"macs": macs_rows, "params": params_rows, "compact": compact_rows, "bytes": bytes_rows}


def measure(rows: list[Row], threads: int, limit: int | None) -> Iterator[str]:
    """A line for each row: network, options, MACs, parameters, bytes (shares), accuracy."""
    for network in dict.fromkeys(row.network for row in rows):
        path = ASSETS / "models" / f"{network}.onnx"
        mine = [replace(row.options, threads=threads) for row in rows if row.network == network]
        widest = replace(mine[0], prune=0.5, bits="auto" if any(o.bits == "auto" for o in mine) else 32)
        original = read_original(path, widest)
        yield f"{network}\toriginal\t1\t1\t1\t{accuracy(path, threads=threads, limit=limit).percent:.1f}"
        for options in mine:
            yield _line(path, options, original, threads, limit)


def _line(path: Path, options: Options, original: Original, threads: int, limit: int | None) -> str:
    asked = {k: v for k, v in options.changed().items() if k != "threads"}
    try:
        result = compress(path, options, original=original)
    except UdfcError as error:
        return f"{path.stem}\t{asked}\t{error}"
    before, after = result.report.before, result.report.after
    shares = (after.macs / before.macs, after.parameters / before.parameters, after.bytes / before.bytes)
    found = accuracy(result.model.SerializeToString(), path.name, threads=threads, limit=limit)
    return "\t".join([path.stem, str(asked), *(f"{s:.4f}" for s in shares), f"{found.percent:.1f}"])


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", choices=sorted(TABLES))
    parser.add_argument("--networks", nargs="+", help="only these")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="use at most so many images")
    args = parser.parse_args()
    for name in args.tables:
        rows = [row for row in TABLES[name]() if not args.networks or row.network in args.networks]
        for line in measure(rows, args.threads, args.limit):
            print(line, flush=True)


if __name__ == "__main__":
    main()
