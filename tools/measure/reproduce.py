"""The paper's rows on the networks that are here: methods × ratios × bits, with parameters, MACs, bytes and top-1.

    python -m tools reproduce --networks "resnet*_bn" --out out/reproduce
    python -m tools reproduce --networks "vgg16*_bn" --paper                     (also the paper's settings)
    python -m tools reproduce --data cifar10=cifar-10-python.tar.gz --data imagenet=val --networks "*"

Every row is written to OUT/rows.json as soon as it is there, and not computed again by a later run; --fresh forgets
them. The table goes to OUT/table.md. Networks are those of models/ and of the test assets.

The paper (UDFC, ICCV 2023) gives VGG-16 at "80 %" with 6 bits and memory about 28 times smaller. Two readings of it:
`paper-channels` prunes 80 % of the last six convolutions and half of the first, `paper-parameters` leaves 20 % of all
parameters, allocated by damage. Read strictly it leaves 20 % of the MACs and of the parameters at once, which is
`paper-strict`; `paper-memory` is a file 28 times smaller with bits that are free. These two are asked of every network.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_udfc.errors import UdfcError
from onnx_udfc.options import Options, options_from
from onnx_udfc.original import Original, read_original
from onnx_udfc.pipeline import compress
from tools.measure.catalog import Classifier, classifiers, dataset_path, prepared

METHODS = ("none", "merge", "udfc", "moments", "moments-global", "moments-factors")
GLOBAL = "-global"  # the same method, with ratios by damage at the MACs of the uniform ones
FACTORS = "-factors"  # the same, and layers may become two
FLOAT = 32


@dataclass(frozen=True)
class Setting:
    """One compression; `name` is `uniform`, or the reading of the paper that it is."""

    method: str
    prune: float
    bits: int | str
    name: str = "uniform"
    layers: tuple[tuple[str, float], ...] = ()
    budget: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Row:
    """What came out; `packed` is the weights' memory if every weight took exactly its bits, original / compressed."""

    network: str
    name: str
    method: str
    prune: float
    bits: int | str
    top1: float | None = None
    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    packed: float | None = None
    seconds: float | None = None
    note: str = ""


def grid(methods: Sequence[str], ratios: Iterable[float], bits: Iterable[int]) -> list[Setting]:
    """Every method at every ratio and bits; the uncompressed corner is left out."""
    points = [(r, b) for r, b in itertools.product(ratios, bits) if r or b != FLOAT]
    return [
        Setting(method, r, b) for r, b in points for method in methods if r or not method.endswith((GLOBAL, FACTORS))
    ]


def convolutions(path: Path) -> list[str]:
    """The names of a file's convolutions in order."""
    model = onnx.load(path, load_external_data=False)
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def paper_settings(path: Path, methods: Sequence[str], bits: int = 6) -> list[Setting]:
    """The first two readings of the paper's VGG-16 setting, where only channels go."""
    convs = convolutions(path)
    methods = [method for method in methods if not method.endswith((GLOBAL, FACTORS))]
    layers = ((convs[0], 0.5), *((name, 0.8) for name in convs[-6:]))
    channels = [Setting(method, 0.0, bits, "paper-channels", layers) for method in methods]
    return channels + [
        Setting(method, 0.0, bits, "paper-parameters", budget=(("params", "0.2"),)) for method in methods
    ]


def strict_settings(methods: Sequence[str], bits: int = 6) -> list[Setting]:
    """The strict reading, and memory alone, of any network."""
    methods = [m for m in methods if m + GLOBAL not in METHODS]  # with a budget ratios are by damage
    both, memory = (("macs", "0.2"), ("params", "0.2")), (("bytes", "0.036"),)
    strict = [Setting(method, 0.0, bits, "paper-strict", budget=both) for method in methods]
    return strict + [Setting(method, 0.0, "auto", "paper-memory", budget=memory) for method in methods]


def options_for(network: Classifier, setting: Setting, threads: int | None) -> Options:
    """The options of one row; what the network expects at its input is told, as its owner would."""
    expects = network.preprocessing
    factors = setting.method.endswith(FACTORS)
    method = setting.method.removesuffix(GLOBAL).removesuffix(FACTORS)
    values: dict[str, Any] = {"prune": setting.prune, "bits": setting.bits, "method": method, "allocate": "uniform"}
    values["factor"] = "on" if factors else "off"
    if factors or setting.method.endswith(GLOBAL):
        values["allocate"] = "global"
    if setting.layers:
        values |= {"prune_layer": dict(setting.layers), "align": 1}  # the ratios of the paper, not a multiple near them
    if setting.budget:
        values |= {"budget": dict(setting.budget), "allocate": "global"}
    told = {"input_mean": expects.mean, "input_std": expects.std, "input_range": expects.range}
    return options_from({**values, **told, "input_colour": expects.colour, "threads": threads})


def computed(
    network: Classifier,
    setting: Setting,
    threads: int | None,
    limit: int | None = None,
    original: Original | None = None,
) -> Row:
    """Compresses and measures; a request that the package refuses is a row with its reason.

    Args:
        network: what is compressed.
        setting: how.
        threads: of everything.
        limit: of the images.
        original: the network as it was read before; rows share its run, and only the first pays for it.
    """
    row = Row(network.name, setting.name, setting.method, setting.prune, setting.bits)
    begun = time.perf_counter()
    try:
        result = compress(str(network.path), options_for(network, setting, threads), original=original)
    except UdfcError as error:
        return dataclasses.replace(row, note=str(error))
    seconds = time.perf_counter() - begun
    report = result.report.to_dict()
    sizes = {key: report["after"][key] / report["before"][key] for key in ("parameters", "macs", "bytes")}
    top1 = network.top1(result.model.SerializeToString(), threads or 1, limit)
    return dataclasses.replace(row, top1=top1, packed=packed(report["layers"]), seconds=round(seconds, 2), **sizes)


def packed(layers: Iterable[dict[str, Any]]) -> float:
    """How many times smaller the weights are if each took exactly its bits."""
    rows = list(layers)
    before = sum(row["parameters_before"] * FLOAT for row in rows)
    after = sum(row["parameters_after"] * row["bits"] for row in rows)
    return float(before / after)


def key_of(network: Classifier, setting: Setting, limit: int | None = None) -> str:
    """What a row is stored under: the file's content, the images and how many, and the setting."""
    digest = hashlib.sha256(network.path.read_bytes()).hexdigest()[:16]
    return json.dumps([network.name, digest, network.images.name, limit, *dataclasses.astuple(setting)])


class Store:
    """Rows that survive the run, in one JSON file."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """Reads what is there, unless `fresh`."""
        self.path = path
        self.rows: dict[str, Row] = {}
        if path.exists() and not fresh:
            stored = json.loads(path.read_text(encoding="utf-8"))
            self.rows = {key: Row(**values) for key, values in stored.items()}

    def put(self, key: str, row: Row) -> None:
        """Writes beside and renames, so that an interrupted run loses one row at most."""
        self.rows[key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        content = {k: dataclasses.asdict(r) for k, r in self.rows.items()}
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def table(rows: Sequence[Row], originals: dict[str, float], methods: Sequence[str]) -> str:
    """Markdown: one line for each network, setting, ratio and bits; a column of top-1 for each method.

    Sizes are those of the first method that has any, as a fraction of the original's; with uniform ratios they are the
    same for all. Where another method's parameters differ, its cell says them.
    """
    head = ["network", "top-1 %", "setting", "ratio", "bits", "× params", "× MACs", "× bytes", "memory ÷", *methods]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    points = dict.fromkeys((r.network, r.name, r.prune, r.bits) for r in rows)
    for network, name, prune, bits in points:
        same = [r for r in rows if (r.network, r.name, r.prune, r.bits) == (network, name, prune, bits)]
        by_method = {row.method: row for row in same}
        cells = [network, f"{originals[network]:.2f}", name, f"{prune:g}", str(bits), *_sizes(by_method, methods)]
        first = _first(by_method, methods)
        cells += [_top1(by_method.get(method), first) for method in methods]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sizes(by_method: dict[str, Row], methods: Sequence[str]) -> list[str]:
    """Parameters, MACs, bytes and packed memory of the first method that was served."""
    row = _first(by_method, methods)
    return ["", "", "", ""] if row is None else [*_three(row.parameters, row.macs, row.bytes), f"{row.packed:.1f}"]


def _first(by_method: dict[str, Row], methods: Sequence[str]) -> Row | None:
    served = (by_method[method] for method in methods if method in by_method)
    return next((row for row in served if row.top1 is not None), None)


def _three(*values: float | None) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _top1(row: Row | None, first: Row | None) -> str:
    """Top-1, and the parameters where they are not the line's."""
    if row is None:
        return ""
    if row.top1 is None or first is None:
        return row.note[:60]
    assert row.parameters is not None
    assert first.parameters is not None
    differs = abs(row.parameters - first.parameters) > 5e-3
    return f"{row.top1:.2f}" + (f" ({row.parameters:.3f})" if differs else "")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet*_bn", "vgg*_bn", "densenet*", "mobilenet*"])
    parser.add_argument("--data", action="append", type=dataset_path, default=[], metavar="NAME=PATH")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.0, 0.3, 0.5, 0.7])
    parser.add_argument("--bits", nargs="+", type=int, default=[32, 6, 4])
    parser.add_argument("--paper", action="store_true", help="also the paper's settings")
    parser.add_argument("--out", type=Path, default=Path("out/reproduce"))
    parser.add_argument("--limit", type=int, help="at most so many images a network")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Computes the missing rows, prints each, and writes the table."""
    args = arguments()
    images = {name: prepared(name, path, args.out) for name, path in args.data}
    store = Store(args.out / "rows.json", fresh=args.fresh)
    rows: list[Row] = []
    originals: dict[str, float] = {}
    for network in classifiers(args.networks, images):
        originals[network.name] = network.top1(network.path, args.threads, args.limit)
        first = Setting("moments", max(args.ratios), min(args.bits))
        original = read_original(str(network.path), options_for(network, first, args.threads))
        settings = grid(args.methods, args.ratios, args.bits)
        if args.paper and network.name.startswith("vgg16"):
            settings += paper_settings(network.path, args.methods)
        settings += strict_settings(args.methods) if args.paper else []
        for setting in settings:
            key = key_of(network, setting, args.limit)
            if key not in store.rows:
                store.put(key, computed(network, setting, args.threads, args.limit, original))
            rows.append(store.rows[key])
            print(json.dumps(dataclasses.asdict(rows[-1])), flush=True)
    text = table(rows, originals, args.methods)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
