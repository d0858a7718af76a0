"""Layers that share a weight and do not follow one another (a head at several scales, twins) see as one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.model.protos import in_order, reads
from onnx_udfc.numerics.layer_fit import Sight

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from onnx_udfc.numerics.grids import QuantParams
    from onnx_udfc.numerics.moments import Array

    Double = NDArray[np.float64]


@dataclass
class Tie:
    """A weight that several layers share: the first of them decides, so that it stays one weight in the file.

    Attributes:
        start: (g, o, d) the weight before its repair.
        done: (g, o, d) the weight after, and its codes if it has some; None as long as no layer was repaired.
    """

    start: Double
    done: tuple[Double, QuantParams | None] | None = None


def side_by_side(model: onnx.ModelProto, families: Sequence[Sequence[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """An order of the nodes, each behind what it reads, in which layers of a family come one after another.

    Returns:
        Names of all nodes, and the first layer of a family → those of it that do not depend on it.
    """
    makers = {tensor: node.name for node in model.graph.node for tensor in node.output if tensor}
    before = {node.name: [makers[t] for t in reads(node) if t in makers] for node in model.graph.node}
    beside = {names[0]: [n for n in names[1:] if not _depends(n, names[0], before)] for names in families}
    later = {name for others in beside.values() for name in others}
    names = [n for first in before if first not in later for n in (first, *beside.get(first, ()))]
    at = {name: i for i, name in enumerate(names)}
    order = in_order(names, lambda i: [at[name] for name in before[names[i]]])
    return [names[i] for i in order], beside


def _depends(name: str, on: str, before: Mapping[str, Sequence[str]]) -> bool:
    """Whether a node comes behind another."""
    seen, pending = {name}, [name]
    while pending:
        for maker in before[pending.pop()]:
            if maker == on:
                return True
            if maker not in seen:
                seen.add(maker)
                pending.append(maker)
    return False


def as_one(sights: Sequence[Sight]) -> Sight:
    """What several layers of one weight see, as one: each about its own means, for each has its own bias.

    Of n layers every n-th position is taken, so that it takes no more memory than one.
    """
    steps = [slice(i, None, len(sights)) for i in range(len(sights))]
    patches = [_centered(s.patches[:, step])[0] for s, step in zip(sights, steps, strict=True)]
    targets = [_centered(s.targets[:, step]) for s, step in zip(sights, steps, strict=True)]
    bounds = sights[0].bounds if all(s.bounds == sights[0].bounds for s in sights) else None
    streams = [
        np.broadcast_to(mean, values.shape) if s.stream is None else s.stream[:, step] + mean
        for s, step, (values, mean) in zip(sights, steps, targets, strict=True)
    ]
    return Sight(
        np.concatenate(patches, 1), np.concatenate([values for values, _ in targets], 1), bounds,
        np.concatenate(streams, 1).astype(np.float32),
    )  # fmt: skip


def _centered(values: Array) -> tuple[Array, Array]:
    """Values (g, n, d) less their means, and these (g, 1, d)."""
    mean = values.mean(1, keepdims=True, dtype=np.float64).astype(values.dtype)
    return values - mean, mean
