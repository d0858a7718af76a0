"""What a layer that lost outputs, or rank, sees with the layers that read it: what a joint refit looks at.

Readers may see other layers' channels beside its own, through a Concat. What of these is there already is taken as it
is. A layer that reads what is there, but is not repaired yet, gives what it gives with the weights that it starts from:
of two branches that read the same (a Fire module's) the first is refitted beside the other's old channels, the second
beside the first one's new ones. Where anything else stands beside, nothing is refitted together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.layers import own_bias
from onnx_udfc.numerics import products
from onnx_udfc.numerics.joint_refit import Shared
from onnx_udfc.numerics.moments import Array, Window, patches, sample_targets, tap_positions
from onnx_udfc.repair.readers import Beside, View, affordable, bounds_after, concat_behind, readers_of, touched
from onnx_udfc.runtime.windows import pooled_shape, pooling_window, window_of

if TYPE_CHECKING:
    from onnx_udfc.channels.prune import Pruned
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.numerics.layer_fit import Bounds
    from onnx_udfc.numerics.narrowing import Narrowing
    from onnx_udfc.repair.reference import Reference
    from onnx_udfc.runtime.walk import Value, Walk

Index = NDArray[np.int64]
At = Callable[[Index], Array]  # values (m, C) at flat positions (image, *space)

VALUES = 8_000_000  # of the patches that a joint refit looks at
MORE = 3  # times as many at most, where a reader would be seen at fewer positions than
AN_UNKNOWN = 4  # for each of its unknowns


@dataclass(frozen=True)
class Together:
    """The compressed network as far as joint refits look at it.

    Attributes:
        model: the network.
        walk: the pass over it.
        pruned: what was kept of each layer.
        reference: the original's trace.
        whole: layers by name, in the matched domain; one that is two now as the whole of them, by both names.
        outputs: names of the graph's outputs.
        narrowing: the directions that the whole of a layer is looked at in, by its name; None where these are all.
    """

    model: onnx.ModelProto
    walk: Walk
    pruned: Pruned
    reference: Reference
    whole: Mapping[str, Layer]
    outputs: Collection[str]
    narrowing: Callable[[str], Narrowing | None]

    def shared(self, layer: Layer, x: Value, shape: tuple[int, ...]) -> Shared | None:
        """What a layer that lost outputs or rank and its readers see, where they can be refitted together.

        Nothing is added to the layer's output before the activation.
        """
        bounds, readers = bounds_after(layer, self.outputs), readers_of(layer, self.whole)
        others = self._others(layer, shape) if bounds is not None and readers else None
        if bounds is None or others is None:
            return None
        width = self.whole[layer.name].matrix_shape[2]  # what one that is two now would take as a whole
        seen = readers[0][0].in_channels if others else layer.out_channels
        taps = max(int(np.prod(reader.kernel)) for reader, _ in readers)
        most = VALUES // (max(width, seen) if others else width)
        narrowed = [None if others else self.narrowing(reader.name) for reader, _ in readers]
        unknowns = max(taps * seen if n is None else n.unknowns for n in narrowed)
        views = [self._view(reader, pooling, shape, most, taps, unknowns) for reader, pooling in readers]
        if any(v is None or len(v.taps) < unknowns for v in views):
            return None
        known = [v for v in views if v is not None]
        rows = touched(*(v.rows for v in known))
        beside = _beside(others, rows, layer.out_channels) if others else None
        joined = [
            v.reader(rows, reader.matrix()[0], beside, narrow)
            for v, (reader, _), narrow in zip(known, readers, narrowed, strict=True)
        ]
        return Shared(_patches(layer, x, shape, rows), bounds, joined)

    def kept(self, layer: Layer, values: NDArray[Any]) -> NDArray[Any]:
        """The part (..., |K|) of values (..., O) that belongs to the output channels that are left."""
        kept = self.pruned.kept_out.get(layer.name)
        return values if kept is None else np.take(values, kept, axis=-1)

    def _others(self, layer: Layer, shape: tuple[int, ...]) -> list[At | None] | None:
        """For each input of the Concat behind a layer its values, None for the layer's own; [] without a Concat.

        None where one of them cannot be known.
        """
        concat = concat_behind(layer)
        if concat is None:
            return []
        passed = layer.node.outputs[0].outputs[0].outputs[0]
        found: list[At | None] = []
        for tensor in concat.inputs:
            at = None if tensor is passed else self._at(tensor, shape)
            if at is None and tensor is not passed:
                return None
            found.append(at)
        return found

    def _at(self, tensor: gs.Tensor, shape: tuple[int, ...]) -> At | None:
        """Values of a tensor that stands beside an output of this shape; None if they cannot be known."""
        if self.walk.available(tensor.name):
            value = self.walk.get(tensor.name)
            alike = value.ndim == len(shape) and (len(value), *value.shape[2:]) == (shape[0], *shape[2:])
            return (lambda rows: _sampled(value, rows)) if alike else None
        layer = self._behind(tensor)
        if layer is None or not self.walk.available(layer.node.inputs[0].name):
            return None
        bounds, x = bounds_after(layer, self.outputs), self.walk.get(layer.node.inputs[0].name)
        own = (shape[0], layer.out_channels, *shape[2:])
        return None if bounds is None else lambda rows: _outputs(layer, x, own, rows, bounds)

    def _behind(self, tensor: gs.Tensor) -> Layer | None:
        """The plain convolution whose activation writes a tensor."""
        activation = tensor.inputs[0] if tensor.inputs else None
        if activation is None or activation.op not in ("Relu", "Clip") or not activation.inputs[0].inputs:
            return None
        layer = self.whole.get(activation.inputs[0].inputs[0].name)
        if layer is None or not layer.convolves or layer.groups != 1:
            return None
        return layer if layer.node.outputs[0].name == activation.inputs[0].name else None

    def _view(
        self, reader: Layer, pooling: gs.Node | None, shape: tuple[int, ...], allowed: int, taps: int, unknowns: int
    ) -> View | None:
        """What a layer sees of an output of this shape, directly or through a pooling, at about `allowed` places.

        At more where these are few for so many unknowns of a reader. The taps are those of the largest
        of the readers: their positions are the same then, and so is what they touch.
        """
        seen = shape if pooling is None else pooled_shape(self.model, pooling, shape)
        window = None if pooling is None else pooling_window(pooling, shape, seen)
        places = shape[0] * int(np.prod(seen[2:]))
        each = 1 if window is None else int(np.prod(window.kernel))
        usual, most = (affordable(places, max(1, n // each), taps) for n in (allowed, MORE * allowed))
        wanted = self._wanted(reader, seen, max(usual, min(most, AN_UNKNOWN * unknowns)))
        if wanted is None or window is None:
            return None if wanted is None else View(*wanted)
        used = touched(wanted[0])
        return View(*wanted, used, tap_positions(window, shape, seen, used))

    def _wanted(self, reader: Layer, shape: tuple[int, ...], most: int) -> tuple[Index, Array] | None:
        """Positions (n, taps) that a layer reads of an input of this shape, and what it should give there (n, o)."""
        found = self.reference.layers.get(reader.name)
        if found is None:
            return None
        window = window_of(reader, shape, found.shape)
        chosen = np.unique(np.linspace(0, len(found.positions) - 1, max(1, most)).astype(np.int64))
        positions, t = found.positions[chosen], self.kept(reader, found.held[chosen])
        if found.addend is not None:
            if not self.walk.available(found.addend):
                return None
            value = self.walk.get(found.addend).astype(np.float32, copy=False)
            if len(value) != found.shape[0] or value.shape[2:] != found.shape[2:]:
                return None
            t = t - sample_targets(value, window, positions)
        return tap_positions(window, shape, found.shape, positions), t


def _beside(others: Sequence[At | None], rows: Index, channels: int) -> Beside:
    """What stands at some rows beside a layer's channels."""
    values = [None if at is None else at(rows) for at in others]
    own = [np.full(channels if v is None else v.shape[1], v is None) for v in values]
    return Beside(np.concatenate(own), np.concatenate([v for v in values if v is not None], axis=1))


def _sampled(value: Value, rows: Index) -> Array:
    """(m, C) of values (N, C, *space) at some rows."""
    return sample_targets(value.astype(np.float32, copy=False), Window((1,) * (value.ndim - 2)), rows)


def _outputs(layer: Layer, x: Value, shape: tuple[int, ...], rows: Index, bounds: Bounds) -> Array:
    """(m, O) what a layer's activation passes on at some rows, with the weights that it has."""
    y = products.product(_patches(layer, x, shape, rows), layer.matrix()[0].T.astype(np.float32))
    y += own_bias(layer).astype(np.float32)
    passed: Array = np.clip(y, np.float32(bounds.low), np.float32(bounds.high))
    return passed


def _patches(layer: Layer, x: Value, shape: tuple[int, ...], rows: Index) -> Array:
    """(m, d) of a plain convolution's input x for outputs of this shape."""
    found: Array = patches(x.astype(np.float32, copy=False), window_of(layer, x.shape, shape), shape, rows)[0]
    return found
