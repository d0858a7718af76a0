"""Trains the networks of models/ by recipe: `python -m tools train digits`, `python -m tools train vgg16 --data ...`.

One-cycle learning rate (Smith and Topin, 2018) with Nesterov momentum, over a number of epochs or, with --minutes, over
a span of time: then the rate follows the clock and a slow machine ends in the same place with fewer steps. A checkpoint
is written after every epoch and taken up again by the same command.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tools.measure.evaluate import DEV_IMAGES
from tools.places import ASSETS
from tools.train import labelled
from tools.train.labelled import Images
from tools.train.networks import NETWORKS, initialize

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Recipe:
    """How one network is trained; `sizes` are image sides over equal parts of the schedule, empty for the full size."""

    network: str
    epochs: int = 200
    batch: int = 128
    rate: float = 0.1
    decay: float = 5e-4
    smoothing: float = 0.0
    shift: int = 4
    flip: bool = True
    sizes: tuple[int, ...] = ()
    mean: tuple[float, ...] = CIFAR_MEAN
    std: tuple[float, ...] = CIFAR_STD


RECIPES = {
    "digits": Recipe("digits", 60, 64, 0.05, 1e-3, 0.05, shift=1, flip=False, mean=(0.305,), std=(0.376,)),
    "resnet20": Recipe("resnet20"),
    "resnet56": Recipe("resnet56"),
    "vgg16": Recipe("vgg16"),
    "vgg16short": Recipe("vgg16", 12, 128, 0.1, 5e-4, sizes=(16, 16, 24, 32)),
    "vgg16half": Recipe("vgg16half"),
    "mobilenetv2": Recipe("mobilenetv2"),
    "mobilenetv2half": Recipe("mobilenetv2half", 20, 64, 0.1, 2e-4, sizes=(16, 20, 24, 32)),
    "densenet40": Recipe("densenet40", 300, 64, 0.1, 1e-4),
    "densenet40short": Recipe("densenet40", 10, 64, 0.1, 1e-4, sizes=(16, 16, 20, 24, 32)),
    "densenet22": Recipe("densenet22", 20, 64, 0.1, 2e-4, sizes=(20, 24, 28, 32)),
}


def one_cycle(progress: float, warmup: float = 0.2) -> float:
    """The factor of the learning rate at `progress` 0..1: up along a line until `warmup`, then down along a cosine."""
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    return float(0.5 + 0.5 * np.cos(np.pi * rest))


def normalize(x: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Uint8 (N, H, W, C) → float (N, C, H, W), the network's input."""
    mean, std = (torch.tensor(v, device=x.device) for v in (recipe.mean, recipe.std))
    return ((x.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def augment(x: torch.Tensor, recipe: Recipe, random: torch.Generator) -> torch.Tensor:
    """Uint8 (N, H, W, C) shifted by up to `shift` pixels over zeros, one shift an image, and mirrored at random."""
    n, height, width, _ = x.shape
    padded = functional.pad(x, (0, 0, recipe.shift, recipe.shift, recipe.shift, recipe.shift))
    top, left = torch.randint(0, 2 * recipe.shift + 1, (2, n, 1), generator=random)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    if recipe.flip:
        mirrored = torch.rand((n, 1), generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


class Training:
    """A network, its optimizer and how far they have come: what a checkpoint holds."""

    def __init__(self, recipe: Recipe, seed: int, device: str, *, bf16: bool) -> None:
        """Fresh weights, a function of the seed."""
        torch.manual_seed(seed)
        network = initialize(NETWORKS[recipe.network]()).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        self.network: nn.Module = network
        self.recipe, self.seed, self.device, self.bf16 = recipe, seed, device, bf16
        self.optimizer = torch.optim.SGD(groups(self.network, recipe.decay), recipe.rate, momentum=0.9, nesterov=True)
        self.epoch, self.elapsed = 0, 0.0

    def state(self) -> dict[str, Any]:
        """Everything that a later run needs to go on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "elapsed": self.elapsed,
            "recipe": dataclasses.asdict(self.recipe),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes up a state; the recipe must be the same, its length may differ."""
        saved = state["recipe"]
        assert saved["network"] == self.recipe.network, "the checkpoint is of another network"
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.elapsed = state["epoch"], state["elapsed"]

    def step(self, x: torch.Tensor, y: torch.Tensor, progress: float) -> float:
        """One step on uint8 images x (N, H, W, C), already augmented; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * one_cycle(progress)
        inputs = normalize(x.to(self.device), self.recipe).contiguous(memory_format=torch.channels_last)
        sizes = self.recipe.sizes
        if sizes:
            side = sizes[min(len(sizes) - 1, int(progress * len(sizes)))]
            inputs = functional.interpolate(inputs, size=(side, side), mode="bilinear", antialias=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            logits = self.network(inputs)
        loss = functional.cross_entropy(logits.float(), y.to(self.device), label_smoothing=self.recipe.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        self.optimizer.step()
        return float(loss.item())


def groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters of the optimizer: weight decay on weights, none on batch norm and biases."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def batches(data: Images, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The augmented batches of one epoch, a function of seed and epoch alone; a short last batch is left out."""
    random = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(data.x), generator=random)
    size = min(recipe.batch, len(order))
    pixels, labels = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield augment(pixels[chosen], recipe, random), labels[chosen]


def fit(training: Training, data: Images, minutes: float | None, checkpoint: Path | None, test: Images | None) -> None:
    """Trains to the end of the schedule: the recipe's epochs, or `minutes` of wall-clock time over all runs."""
    recipe = training.recipe
    steps = max(1, len(data.x) // recipe.batch)
    while (training.elapsed < minutes * 60) if minutes else (training.epoch < recipe.epochs):
        began, before, losses = time.monotonic(), training.elapsed, []
        for index, (x, y) in enumerate(batches(data, recipe, training.seed, training.epoch)):
            done = (training.epoch + index / steps) / recipe.epochs
            progress = training.elapsed / (minutes * 60) if minutes else done
            if progress >= 1:
                break
            losses.append(training.step(x, y, progress))
            training.elapsed = before + time.monotonic() - began
        training.epoch += 1
        _report(training, float(np.mean(losses)), test)
        if checkpoint:
            _save(training, checkpoint)


def _report(training: Training, loss: float, test: Images | None) -> None:
    reached = f", top-1 {100 * accuracy(training.network, test, training.recipe):.2f}" if test else ""
    print(f"epoch {training.epoch}: loss {loss:.4f}{reached}, {training.elapsed:.0f} s", flush=True)


def _save(training: Training, checkpoint: Path) -> None:
    """Writes beside and renames: an interrupted run leaves the last whole checkpoint."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = checkpoint.with_suffix(".partial")
    torch.save(training.state(), partial)
    partial.replace(checkpoint)


def accuracy(network: nn.Module, data: Images, recipe: Recipe) -> float:
    """The fraction of images whose largest logit is their label."""
    network.eval()
    device = next(network.parameters()).device
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(data.x), 250):
            x = torch.from_numpy(data.x[start : start + 250]).to(device)
            y = torch.from_numpy(data.y[start : start + 250]).to(device)
            hits += int((network(normalize(x, recipe)).argmax(1) == y).sum())
    network.train()
    return hits / len(data.x)


def recalibrate(network: nn.Module, data: Images, recipe: Recipe, count: int = 5000) -> None:
    """Batch norm statistics in float32, at full size, over `count` augmented images: exact averages, not running ones.

    Augmented, because that is what the weights were trained on: plain images cost DenseNet-22 two points.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    device = next(network.parameters()).device
    random = torch.Generator().manual_seed(0)
    chosen = np.random.default_rng(0).permutation(len(data.x))[:count]
    with torch.no_grad():
        for part in np.array_split(chosen, max(1, len(chosen) // 250)):
            x = augment(torch.from_numpy(data.x[part]), recipe, random)
            network(normalize(x.to(device), recipe))


def sets(name: str, data: list[Path], seed: int) -> tuple[Images, Images]:
    """Training and test images of a recipe."""
    if name == "digits":
        return labelled.digits(seed)
    train = labelled.read(*data)
    return train, labelled.read_npz(ASSETS / DEV_IMAGES["cifar10"])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    default = [ASSETS / "cifar10_train_jpeg.tar.gz", ASSETS / "images/cifar10_train_1k.npz"]
    parser.add_argument("--data", type=Path, nargs="+", default=default, help="training images; several are mixed")
    parser.add_argument("--out", type=Path, default=Path("out/train"), help="folder of checkpoints and weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="default: on CUDA only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="in place of the recipe's")
    length.add_argument("--minutes", type=float, help="wall-clock time in place of epochs")
    return parser.parse_args()


def main() -> None:
    """Trains, recalibrates, writes the final weights beside the checkpoint and prints the accuracy."""
    args = arguments()
    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.recipe]
    recipe = dataclasses.replace(recipe, epochs=args.epochs or recipe.epochs)
    train, test = sets(args.recipe, args.data, args.seed)
    bf16 = args.device == "cuda" if args.bf16 is None else args.bf16
    training = Training(recipe, args.seed, args.device, bf16=bf16)
    checkpoint = args.out / f"{args.recipe}.checkpoint"
    if checkpoint.exists():
        training.load(torch.load(checkpoint, map_location=args.device, weights_only=True))
        print(f"going on after epoch {training.epoch}")
    fit(training, train, args.minutes, checkpoint, test)
    recalibrate(training.network, train, recipe)
    top1 = accuracy(training.network, test, recipe)
    path = args.out / f"{args.recipe}.pt"
    torch.save({"network": training.network.state_dict(), "top1": top1, **_summary(training)}, path)
    print(f"{path}: top-1 {100 * top1:.2f} on {len(test.x)} images")


def _summary(training: Training) -> dict[str, Any]:
    return {"epochs": training.epoch, "seconds": training.elapsed, "recipe": dataclasses.asdict(training.recipe)}


if __name__ == "__main__":
    main()
