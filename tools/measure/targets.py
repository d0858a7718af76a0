"""What the default method must reach on the networks of the test assets, and what it does reach: a row for each.

    python -m tools targets [repair bits together compact macs params bytes activations paper] [--networks "resnet20*"]
    python -m tools targets params --seeds 5          (the mean of five seeds: one seed is good for about a point)

Nothing but the file goes in (`--calibrate` to compare with real images). Accuracy is on the dev images; the least that
each row must reach stands beside it, and the exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from onnx_udfc.options import Options
from onnx_udfc.original import Original, read_original
from onnx_udfc.pipeline import compress
from tools.measure.evaluate import accuracy, manifest_entry, manifest_preprocessing
from tools.measure.reproduce import paper_settings
from tools.places import ASSETS

R56, R56_FOLDED = "resnet56_cifar10_bn", "resnet56_cifar10_folded"
R20, R20_FOLDED = "resnet20_cifar10_bn", "resnet20_cifar10_folded"
V2, V1, SQUEEZE = "mobilenet_v2_imagenet_folded", "mobilenet_v1_0.25_imagenet_bn", "squeezenet_v1.1_imagenet"
VGG, METHODS = "vgg16half_cifar10_bn", ("merge", "udfc", "moments")
FLOAT = {VGG: 88.6, R56: 94.0, R56_FOLDED: 94.0, R20: 91.0, R20_FOLDED: 91.0, V2: 79.89, V1: 53.94, SQUEEZE: 57.26}


@dataclass(frozen=True)
class Target:
    """One compression and the top-1 that it must keep at least; None where only the figure is wanted.

    Attributes:
        beyond: points that it must be above the row before, where that was of the same network; None for no matter.
    """

    network: str
    options: Options
    least: float | None = None
    beyond: float | None = None


def _row(network: str, least: float | None = None, /, **options: Any) -> Target:
    return Target(network, Options(**options), least)


def _within(network: str, points: float, /, **options: Any) -> Target:
    return Target(network, Options(**options), FLOAT[network] - points)


def repair() -> Iterator[Target]:
    """Equal ratios, and free counts at their MACs."""
    rows = {R56: ((92.5, 88.5, 68), (93, 91, 80)), R56_FOLDED: ((92, 86, 55), (92.5, 89, 71))}
    for network, (even, free) in rows.items():
        for ratio, least, most in zip((0.3, 0.5, 0.7), even, free, strict=True):
            yield _row(network, least, prune=ratio, allocate="uniform", align=1)
            yield _row(network, most, prune=ratio, allocate="global", align=1)
    for ratio, least in ((0.3, 84), (0.5, 67)):
        yield _row(R20, least, prune=ratio, allocate="uniform", align=1)
        yield replace(_row(R20, least, prune=ratio, allocate="global", align=1), beyond=2.0)


def bits() -> Iterator[Target]:
    """Weights in few bits, nothing pruned."""
    for network in (R56, R56_FOLDED):
        yield from (_within(network, 0.6, bits=4), _within(network, 1.0, bits=3), _row(network, 89, bits=2))
    for network in (R20, R20_FOLDED):
        yield from (_within(network, 0.8, bits=4), _within(network, 1.2, bits=3), _row(network, 84, bits=2))
    yield from (_within(V2, 1.5, bits=6), _row(V2, 68, bits=4))
    yield from (_within(V1, 2, bits=6), _row(V1, 38, bits=4), _within(SQUEEZE, 6, bits=4))


def together() -> Iterator[Target]:
    """Channels and bits."""
    yield from (_within(R56, 1.5, prune=0.3, bits=6), _row(R56, 88, prune=0.5, bits=4))


def compact() -> Iterator[Target]:
    """Compact networks, with both allocations."""
    for network, least in ((V2, 62), (SQUEEZE, 30), (V1, None)):
        for ratio in (0.1, 0.2):
            yield _row(network, least if ratio == 0.1 else None, prune=ratio)
            yield _row(network, prune=ratio, allocate="uniform")


def macs() -> Iterator[Target]:
    """Budgets of the whole network's MACs."""
    for network, half, third in ((R56, 90.5, 80), (R56_FOLDED, 88, 72)):
        yield _row(network, half, budget={"macs": "0.5"})
        yield _row(network, third, budget={"macs": "0.3"})
    yield _row(R20, prune=0.5, allocate="uniform", align=1)
    yield replace(_row(R20, budget={"macs": "0.505"}, align=1), beyond=5.0)  # what equal ratios of a half leave
    yield _row(R20, budget={"macs": "0.5"})
    yield _row(R20, budget={"macs": "0.3"})


def params() -> Iterator[Target]:
    """Budgets of parameters, with both allocations."""
    for network in (R56, R56_FOLDED, R20, R20_FOLDED):
        for share in ("0.5", "0.3"):
            yield _row(network, budget={"params": share}, allocate="uniform")
            yield _row(network, budget={"params": share})


def size() -> Iterator[Target]:
    """Budgets of bytes, bits chosen."""
    for share, least in (("0.06", 89), ("0.08", None), ("0.1", None)):
        yield _row(R56, least, bits="auto", budget={"bytes": share})
    yield _within(SQUEEZE, 6, bits="auto", budget={"bytes": "0.12"})
    yield _row(SQUEEZE, bits="auto", budget={"bytes": "0.14"})


def activations() -> Iterator[Target]:
    """Everything in integers."""
    for network in (R56, R56_FOLDED, R20, R20_FOLDED):
        yield _within(network, 0.5, bits=8, activations=8)
        yield _within(network, 1.5, bits=4, activations=8)
    yield _within(SQUEEZE, 0.5, bits=8, activations=8)
    yield from (_within(V2, 1.5, bits=8, activations=8), _within(V1, 1.5, bits=8, activations=8))


def paper() -> Iterator[Target]:
    """UDFC's setting for VGG-16, in both readings (tools/measure/reproduce.py), on the one of half width."""
    for setting in paper_settings(ASSETS / "models" / f"{VGG}.onnx", METHODS):
        least = FLOAT[VGG] - 2.4 if setting.method == "moments" else None
        asked = {"bits": setting.bits, "method": setting.method, "prune_layer": dict(setting.layers)}
        yield _row(VGG, least, budget=dict(setting.budget), align=1, **asked)


TABLES = {
    "repair": repair, "bits": bits, "together": together, "compact": compact, "macs": macs, "params": params,
    "bytes": size, "activations": activations, "paper": paper,
}  # fmt: skip


def measured(rows: list[Target], limit: int | None) -> Iterator[tuple[Target, float, str]]:
    """Each row with its top-1 in percent and what it takes: shares of MACs, parameters and bytes."""
    for network in dict.fromkeys(row.network for row in rows):
        path = ASSETS / "models" / f"{network}.onnx"
        mine = [row for row in rows if row.network == network]
        original = read_original(path, mine[0].options)
        for row in mine:
            yield row, *_measured(row, original, limit)


def averaged(rows: list[Target], limit: int | None, seeds: int) -> Iterator[tuple[Target, float, str]]:
    """The same with the mean of some seeds' top-1, and the sizes of the first."""
    if seeds == 1:
        yield from measured(rows, limit)
        return
    runs = [list(measured([_seeded(row, i) for row in rows], limit)) for i in range(seeds)]
    for same in zip(*runs, strict=True):
        yield same[0][0], sum(top1 for _, top1, _ in same) / seeds, same[0][2]


def _seeded(row: Target, later: int) -> Target:
    return replace(row, options=replace(row.options, seed=row.options.seed + later))


def _scale(row: Target, calibrate: str | None) -> dict[str, Any]:
    """What the network expects at its input: an owner of images knows it."""
    if calibrate is None:
        return {}
    known = manifest_preprocessing(manifest_entry(row.network + ".onnx"))
    return {"input_mean": known.mean, "input_std": known.std, "input_range": known.range, "input_colour": known.colour}


def _measured(row: Target, original: Original, limit: int | None) -> tuple[float, str]:
    path = ASSETS / "models" / f"{row.network}.onnx"
    result = compress(path, row.options, original=original)
    before, after = result.report.before, result.report.after
    shares = (after.macs / before.macs, after.parameters / before.parameters, after.bytes / before.bytes)
    found = accuracy(result.model.SerializeToString(), path.name, threads=row.options.threads or 2, limit=limit)
    return found.percent, " ".join(f"{share:.3f}" for share in shares)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="all, if none is named")
    parser.add_argument("--networks", default="*", help="only these")
    parser.add_argument("--calibrate", help="real images in place of synthetic ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="how many are averaged")
    parser.add_argument("--limit", type=int, help="use at most so many images")
    args = parser.parse_args()
    common: dict[str, Any] = {"calibrate": args.calibrate, "threads": args.threads, "seed": args.seed}
    missed = 0
    for name in args.tables or TABLES:
        rows = [row for row in TABLES[name]() if fnmatch(row.network, args.networks)]
        rows = [replace(row, options=replace(row.options, **common | _scale(row, args.calibrate))) for row in rows]
        before = 0.0
        for row, top1, shares in averaged(rows, args.limit, args.seeds):
            wanted = [row.least, None if row.beyond is None else before + row.beyond]
            needed = max((w for w in wanted if w is not None), default=None)
            low, before = needed is not None and top1 < needed - 1e-6, top1
            missed += low
            asked = {k: v for k, v in row.options.changed().items() if k not in common and "input" not in k}
            least = "" if needed is None else f"≥ {needed:.1f}"
            print(name, row.network, asked, shares, f"{top1:.1f}", least, "MISSED" if low else "", sep="\t", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
