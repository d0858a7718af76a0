"""Exports torchvision, timm and Hugging Face classifiers to ONNX, with batch norm kept or folded.

    python -m tools export torchvision:resnet18 resnet18.onnx
    python -m tools export timm:mobilenetv3_large_100 net.onnx --fold
    python -m tools export hf:microsoft/resnet-50 net.onnx
    python -m tools export torchvision:vgg19_bn random.onnx --random

Keep batch norm: its statistics tell the compressor what the network saw in training. `--random` gives the architecture
with random weights and downloads nothing. What the network expects at its input is written to the metadata of the file.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

OPSET = 17  # the lowest with every operator that these networks use; the compressor raises it itself
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """What a network takes: value = (pixel · scale − mean) / std with pixel 0..255, in NCHW."""

    channels: int = 3
    height: int = 224
    width: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1 / 255
    color: str = "RGB"


class Logits(nn.Module):  # type: ignore[misc, unused-ignore]
    """A Hugging Face classifier that returns its logits as a tensor."""

    def __init__(self, network: nn.Module) -> None:
        """Wraps `network`, whose output has the field `logits`."""
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, classes)."""
        logits: torch.Tensor = self.network(pixel_values=x).logits
        return logits


def to_onnx(network: nn.Module, path: Path, spec: InputSpec, *, fold: bool, batch: str | int = "N") -> onnx.ModelProto:
    """Writes the network in inference mode, with batch norm folded into the convolution before it if `fold`.

    Args:
        network: Any module that maps (N, C, H, W) to (N, classes).
        path: The file to write.
        spec: Shape of the input, and its preprocessing for the metadata.
        fold: Fold batch norm.
        batch: Name of the dynamic batch dimension, or a fixed batch.
    """
    network.eval()
    count = batch if isinstance(batch, int) else 2
    example = torch.zeros(count, spec.channels, spec.height, spec.width)
    dynamic = {"input": {0: batch}, "logits": {0: batch}} if isinstance(batch, str) else None
    modes = torch.onnx.TrainingMode
    with warnings.catch_warnings():  # of the older exporter, which is the one that can keep batch norm
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            training=modes.EVAL if fold else modes.PRESERVE,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes=dynamic,
        )
    model = without_identities(onnx.load(path))
    onnx.helper.set_model_props(model, {"preprocessing": json.dumps(asdict(spec))})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return model


def without_identities(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gives each user of a weight its own copy: torch writes equal weights once, behind Identity nodes."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    for node in list(model.graph.node):
        if node.op_type != "Identity" or node.input[0] not in weights or node.output[0] in outputs:
            continue
        copy = onnx.TensorProto()
        copy.CopyFrom(weights[node.input[0]])
        copy.name = node.output[0]
        model.graph.initializer.append(copy)
        model.graph.node.remove(node)
    return model


def _torchvision(name: str, *, pretrained: bool) -> tuple[nn.Module, InputSpec]:
    """A torchvision classifier; its weights know their preprocessing."""
    from torchvision import models

    if not pretrained:
        return models.get_model(name, weights=None), InputSpec()
    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    side = preset.crop_size[0]
    spec = InputSpec(height=side, width=side, mean=tuple(preset.mean), std=tuple(preset.std))
    return models.get_model(name, weights=weights), spec


def _timm(name: str, *, pretrained: bool) -> tuple[nn.Module, InputSpec]:
    """A timm classifier; its configuration knows its preprocessing."""
    import timm

    network = timm.create_model(name, pretrained=pretrained)
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    return network, InputSpec(channels, height, width, tuple(config["mean"]), tuple(config["std"]))


def _hugging_face(name: str, *, pretrained: bool) -> tuple[nn.Module, InputSpec]:
    """An image classifier of the Hugging Face hub; without `pretrained` only its configuration is downloaded."""
    from transformers import (  # type: ignore[import-not-found, unused-ignore]
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
    )

    if pretrained:
        network = AutoModelForImageClassification.from_pretrained(name)
    else:
        network = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(name))
    return Logits(network), hugging_face_spec(AutoImageProcessor.from_pretrained(name).to_dict())


def hugging_face_spec(processor: dict[str, Any]) -> InputSpec:
    """The input that an image processor's configuration describes."""
    size = processor.get("crop_size") if processor.get("do_center_crop") else None
    size = size or processor["size"]
    height = size.get("height") or size["shortest_edge"]
    width = size.get("width") or size["shortest_edge"]
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.get("do_normalize", True):
        mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    return InputSpec(len(mean), height, width, mean, std, scale)


SOURCES: dict[str, Callable[..., tuple[nn.Module, InputSpec]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": _hugging_face,
}


def load(source: str, *, pretrained: bool) -> tuple[nn.Module, InputSpec]:
    """The network named `library:name`, and what it takes.

    Raises:
        SystemExit: the library is unknown or not installed.
    """
    library, _, name = source.partition(":")
    if library not in SOURCES or not name:
        raise SystemExit(f"{source}: write torchvision:NAME, timm:NAME or hf:OWNER/NAME")
    try:
        return SOURCES[library](name, pretrained=pretrained)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{source}: pip install {error.name}") from error


def main() -> None:
    """Exports one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="torchvision:NAME, timm:NAME or hf:OWNER/NAME")
    parser.add_argument("out", type=Path)
    parser.add_argument("--fold", action="store_true", help="fold batch norm into the convolutions")
    parser.add_argument("--random", action="store_true", help="random weights, nothing is downloaded")
    parser.add_argument("--batch", type=int, help="a fixed batch in place of a dynamic one")
    args = parser.parse_args()
    network, spec = load(args.source, pretrained=not args.random)
    model = to_onnx(network, args.out, spec, fold=args.fold, batch=args.batch or "N")
    norms = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {norms} BatchNormalization nodes")


if __name__ == "__main__":
    main()
