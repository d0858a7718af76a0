"""SHA-256 of what `compress` writes for some settings, so that a change that is to move nothing can be seen to.

    python -m tools golden > before.txt    # then change the code
    python -m tools golden | diff before.txt -

The metadata that names the version and the options are left out. Hashes are those of one machine.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator

import onnx

from onnx_udfc import Options, compress
from onnx_udfc.emit.stamp import PREFIX
from tools.places import MODELS

NAMES = ("digits_resnet_bn", "digits_resnet_folded")
SETTINGS: tuple[dict[str, object], ...] = (
    {"prune": 0.5},
    {"prune": 0.5, "bits": 4},
    {"prune": 0.3, "allocate": "uniform", "align": 1},
    {"prune": 0.4, "prune_stream": "on"},
    {"prune": 0.5, "method": "udfc", "bits": 6},
    {"prune": 0.5, "method": "merge"},
    {"prune": 0.2, "method": "none", "select": "l1"},
    {"bits": 2},
    {"bits": 3, "target": "portable"},
    {"bits": 4, "target": "cuda"},
    {"bits": 8, "activations": 8},
    {"bits": 4, "activations": 8, "target": "tensorrt"},
    {"bits": "auto", "budget": {"bytes": "0.12"}},
    {"budget": {"macs": "0.5"}, "factor": "on"},
)


def hashes(names: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield hash, model and setting."""
    for name in names:
        for setting in SETTINGS:
            model = compress(MODELS / f"{name}.onnx", Options(threads=1, **setting)).model  # type: ignore[arg-type]
            yield hashlib.sha256(_bare(model)).hexdigest(), name, " ".join(f"{k}={v}" for k, v in setting.items())


def _bare(model: onnx.ModelProto) -> bytes:
    kept = [entry for entry in model.metadata_props if not entry.key.startswith(PREFIX)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(NAMES), help="names in models/, without .onnx")
    for digest, name, setting in hashes(tuple(parser.parse_args().models)):
        print(f"{digest[:16]}  {name}  {setting}", flush=True)


if __name__ == "__main__":
    main()
