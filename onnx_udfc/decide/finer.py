"""Which layers get more bits than were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.emit.targets import TARGETS
from onnx_udfc.model.loudness import before_logarithm
from onnx_udfc.options.words import FLOAT

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network
    from onnx_udfc.options import Options


def finer_layers(network: Network, options: Options) -> frozenset[str]:
    """Names of the layers before a logarithm, in float32, and for a target that folds what their codes come to."""
    if options.bits == FLOAT or TARGETS[options.target].table is None:
        return frozenset()
    quiet = before_logarithm(network)
    return frozenset(name for name in quiet if network.layers[name].constant.dtype == np.float32)
