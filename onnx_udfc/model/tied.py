"""Weights that several layers share: heads that run at several scales, twins, what is unrolled over steps."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.model.graph import peek

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

LEAST = 1024  # values of a weight: smaller ones (equal kernels that a tool stored once) cost little apart


def tied_layers(network: Network) -> dict[str, str]:
    """Layer name → the initializer that it was read from, for the layers that share one."""
    shared = network.origin.shared
    roots = {name: shared.get(layer.constant.name) for name, layer in network.layers.items()}
    counts = Counter(roots.values())
    return {name: root for name, root in roots.items() if root is not None and counts[root] > 1}


def repeated(network: Network) -> set[str]:
    """Names of the layers whose weight an earlier layer has: it is in the file once."""
    return {name for names in twins(network) for name in names[1:]}


def twins(network: Network) -> tuple[tuple[str, ...], ...]:
    """Names of layers whose weight is still one and worth keeping so, in the order of the network.

    Different batch norms that were folded in made different weights of it.
    """
    found: list[list[str]] = []
    roots = tied_layers(network)
    for name, root in roots.items():
        constant = network.layers[name].constant
        if int(np.prod(constant.shape)) < LEAST:
            continue
        for others in found:
            first, layer = network.layers[others[0]], network.layers[name]
            alike = roots[first.name] == root and (first.node.op, first.groups) == (layer.node.op, layer.groups)
            if alike and np.array_equal(peek(first.constant), peek(constant)):
                others.append(name)
                break
        else:
            found.append([name])
    return tuple(tuple(names) for names in found if len(names) > 1)
