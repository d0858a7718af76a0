"""Puts a stored weight before the node that reads it, once for all nodes that have the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from hashlib import sha256

import numpy as np

from onnx_udfc.emit.draft import Draft
from onnx_udfc.emit.forms import StoredWeight, write_weight
from onnx_udfc.numerics.grids import FORMATS, Floats, QuantParams


def write_once(draft: Draft, node: str, slot: int, stored: StoredWeight, form: str, twins: dict[Hashable, str]) -> None:
    """The weight that a node reads by its input `slot`, once for all nodes that have the same.

    A DequantizeLinear has one reader, as integer kernels want it; its inputs may be shared, if not `stored.alone`.
    """
    parts = [stored, *([stored.finer] if stored.finer is not None else [])]
    digest = sha256()
    for part in parts:  # without copies of what is as large as the weights
        digest.update(np.ascontiguousarray(part.codes).data)
        digest.update(np.ascontiguousarray(part.scale).data)
    key = (form, stored.axis, stored.bits, stored.format, stored.float_type, stored.codes.shape, digest.digest())
    if key not in twins or form.endswith("dq"):
        draft.drop_constant(stored.name)
        draft.before(node, write_weight(draft, stored, form))
        twins[key] = stored.name
    draft.nodes[node].input[slot] = twins[key]


def rescaled(params: QuantParams, scale: Floats) -> QuantParams:
    """The same weights with another scale: codes are rounded again where it differs."""
    if np.array_equal(scale, params.scale):
        return params
    fmt = FORMATS[params.bits]
    moved = fmt.decode(params.codes) * (params.scale / scale)[..., None]
    codes = fmt.encode(fmt.nearest(moved, out=moved)).astype(np.int8)
    return replace(params, codes=codes, scale=scale)
