"""Weights of a network that are there as codes only, and computed when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.numerics.grids import QuantParams


class Coded(LazyValues):  # type: ignore[misc]
    """Weights that are computed from their codes when they are read: nobody reads those of most layers again."""

    def __init__(self, layer: Layer, params: QuantParams) -> None:
        """Keeps the codes."""
        self.shape, self.dtype = tuple(layer.constant.shape), np.dtype(layer.constant.dtype)
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._layer, self._params = layer, params

    def load(self) -> NDArray[np.floating]:
        """The weights in the node's layout, in the type of the file."""
        weight = self._layer.layout(self._params.dequantize())
        return np.ascontiguousarray(weight, self.dtype).reshape(self.shape)
