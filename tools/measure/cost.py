"""What a compression costs: seconds and peak memory against size, beside the quantize_static of onnxruntime.

    python -m tools cost --networks resnet56 resnet18 resnet50 vgg19 --threads 2

Architectures of ImageNet have random weights (cost does not depend on them) and are written to --out first; the others
are those of the test assets. quantize_static is given 64 images, as by the tool benchmark. CPU seconds are what a busy
machine does not change much; wall-clock seconds it does.
"""

import argparse
import compileall
import dataclasses
import json
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import onnx_udfc
from tools.measure.benchmark import REAL_IMAGES, Outcome, measured_process
from tools.measure.imagenet_networks import write
from tools.places import ASSETS

SETTING = "--prune 0.5 --bits 4"
CIFAR = {"resnet20": "resnet20_cifar10_bn", "resnet56": "resnet56_cifar10_bn", "vgg16half": "vgg16half_cifar10_bn"}


@dataclass(frozen=True)
class Cost:
    """One tool on one network; seconds include the start of the process, memory is the process's peak."""

    network: str
    tool: str
    parameters: int
    bytes: int
    seconds: float
    cpu_seconds: float
    memory: int
    error: str | None = None


def source_of(name: str, folder: Path) -> Path:
    """The file of a network, exported now if it is an ImageNet architecture that is not there yet."""
    if name in CIFAR:
        return ASSETS / "models" / f"{CIFAR[name]}.onnx"
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(name, path)
    return path


def parameters(path: Path) -> int:
    """Numbers in the file's initializers."""
    graph = onnx.load(path, load_external_data=False).graph
    return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)


def input_shape(path: Path) -> list[int]:
    """The shape of one image, (C, H, W)."""
    graph = onnx.load(path, load_external_data=False).graph
    return [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[1:]]


def ours(path: Path, folder: Path, threads: int, setting: str) -> Outcome:
    """This project's command line with its default method."""
    program = str(Path(sys.executable).with_name("onnx-udfc"))
    out = folder / f"{path.stem}.ours.onnx"
    return measured_process(
        [program, str(path), str(out), *shlex.split(setting), "--threads", str(threads), "--quiet"], threads
    )


def quantize_static(path: Path, folder: Path, threads: int) -> Outcome:
    """The peer, with as many images as a calibration commonly takes."""
    inputs = folder / f"{path.stem}.npz"
    shape = (REAL_IMAGES, *input_shape(path))
    np.savez(inputs, x=np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    script = str(Path(__file__).with_name("peers.py"))
    out = folder / f"{path.stem}.static.onnx"
    with tempfile.TemporaryDirectory() as copies:  # what is measured stays as it is
        source = shutil.copyfile(path, Path(copies) / path.name)
        command = [sys.executable, script, "static", str(source), str(out), "--inputs", str(inputs)]
        return measured_process(command, threads)


def cost_of(name: str, tool: str, path: Path, outcome: Outcome) -> Cost:
    """The row of a finished process."""
    size = path.stat().st_size
    seconds, cpu = round(outcome.seconds, 2), round(outcome.cpu_seconds, 2)
    return Cost(name, tool, parameters(path), size, seconds, cpu, outcome.memory, outcome.error)


def markdown(costs: list[Cost]) -> str:
    """The table."""
    lines = [
        "| network | parameters M | file MB | tool | s | CPU s | peak MB | peak / file |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in costs:
        figures = f"{c.seconds:.1f} | {c.cpu_seconds:.1f} | {c.memory / 1e6:.0f} | {c.memory / c.bytes:.1f}"
        measured = f"{c.error} | | | " if c.error else figures
        lines.append(f"| {c.network} | {c.parameters / 1e6:.2f} | {c.bytes / 1e6:.1f} | {c.tool} | {measured} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures each network with both tools, one process at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56", "vgg16half", "resnet18", "resnet50"])
    parser.add_argument("--setting", default=SETTING, help="options of onnx-udfc, in one argument")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true", help="this project's tool alone")
    parser.add_argument("--out", type=Path, default=Path("out/cost"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # as an installer does: else a checkout is compiled at every start where PYTHONDONTWRITEBYTECODE is set
    compileall.compile_dir(Path(str(onnx_udfc.__file__)).parent, quiet=2)
    costs: list[Cost] = []
    for name in args.networks:
        path = source_of(name, args.out)
        label = f"onnx-udfc {args.setting}"
        costs.append(cost_of(name, label, path, ours(path, args.out, args.threads, args.setting)))
        if not args.no_peer:
            costs.append(cost_of(name, "quantize_static", path, quantize_static(path, args.out, args.threads)))
        print(markdown(costs[-2:] if not args.no_peer else costs[-1:]), flush=True)
    (args.out / "cost.md").write_text(markdown(costs), encoding="utf-8")
    rows = [dataclasses.asdict(c) for c in costs]
    (args.out / "cost.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
