"""A pass for Microsoft Olive, `OnnxUDFC`, with the options of the command line and the same bytes as its result.

Olive finds passes in a package config, and one that is given replaces Olive's own; it has no entry points. Hence:

    python -m onnx_udfc.olive run workflow.json         `olive run` that knows this pass, without a package file
    python -m onnx_udfc.olive > package.json            Olive's own passes and this one, for
    olive run --config workflow.json --package-config package.json

    {"input_model": {"type": "OnnxModel", "model_path": "in.onnx"},
     "passes": {"udfc": {"type": "OnnxUDFC", "prune": 0.5, "bits": 4}},
     "output_dir": "out"}

In Python: `olive.workflows.run("workflow.json", package_config=onnx_udfc.olive.package_config())`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.model import ONNXModelHandler
    from olive.model.utils import resolve_onnx_path
    from olive.package_config import OlivePackageConfig
    from olive.passes import Pass
    from olive.passes.pass_config import BasePassConfig, PassConfigParam
    from olive.search.search_parameter import Categorical
    from olive.workflows import run
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"onnx-udfc: there is no {error.name} here; pip install 'onnx-udfc[olive]'") from None

from onnx_udfc.options import Options, Spec, options_from, specs
from onnx_udfc.pipeline import compress

NAME = "OnnxUDFC"
_NOT_HERE = ("verbose", "debug")


def _type(spec: Spec) -> Any:
    """Return an option's type as a workflow in JSON has it."""
    number, _ = spec.number
    plain: Any = {
        "flag": bool,
        "numbers": list[float],
        "several": list[str] | str,
        "pairs": dict[str, str | float],
        "one": (number | str if spec.words else number) if number else str,
    }[spec.kind]
    return plain | None if spec.optional else plain


class OnnxUDFC(Pass):  # type: ignore[misc]  # Olive is not typed
    """Compress a convolutional ONNX network without data: prune channels, quantize, repair in closed form."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        """Return the options of onnx-udfc under their names, as Olive declares them."""
        del accelerator_spec  # the file's form is chosen by `target`
        default = Options().to_dict()
        return {
            name: PassConfigParam(
                type_=_type(spec),
                default_value=default[name],
                search_defaults=Categorical(list(spec.row.search)) if spec.row.search else None,
                description=spec.row.help,
            )
            for name, spec in specs(Options).items()
            if name not in _NOT_HERE
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        """Compress and save where Olive wants it."""
        given = {k: v for k, v in config.model_dump().items() if k in Options().to_dict() and v is not None}
        out = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        out.parent.mkdir(parents=True, exist_ok=True)
        compress(model.model_path, options_from(given)).save(out)
        return ONNXModelHandler(model_path=str(out))


def package_config() -> dict[str, Any]:
    """Return Olive's own package config with this pass added, ready for json.dump."""
    path = Path(OlivePackageConfig.get_default_config_path())
    merged: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    merged["passes"][NAME] = {
        "module_path": f"onnx_udfc.olive.{NAME}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": ["qdq"],
        "dataset": "dataset_optional",
    }
    return merged


def main(words: Sequence[str]) -> None:
    """Print the package config or, with `run WORKFLOW`, run a workflow with it."""
    match words:
        case []:
            json.dump(package_config(), sys.stdout, indent=2)
        case ["run", workflow]:
            if not run(workflow, package_config=package_config()).has_output_model():
                # Olive only logs it: a pipeline would take a file of an earlier run for this one's
                raise SystemExit("onnx-udfc: Olive wrote no model; its log says which pass failed, and why")
        case _:
            raise SystemExit("usage: python -m onnx_udfc.olive [run WORKFLOW.json]")


if __name__ == "__main__":
    main(sys.argv[1:])
