"""One trained network as many exporters write it: rewrites that keep what a network computes."""

from __future__ import annotations

from tests.flavours.activations import ACTIVATIONS
from tests.flavours.editing import Flavour
from tests.flavours.layers import SPELLINGS
from tests.flavours.layout import LAYOUTS
from tests.flavours.norms import NORMS
from tests.flavours.structure import STRUCTURES
from tests.flavours.weights import FLAVOURS as WEIGHTS

FLAVOURS: dict[str, Flavour] = {
    **{f"weights_{flavour.__name__}": flavour for flavour in WEIGHTS},
    **NORMS,
    **ACTIVATIONS,
    **SPELLINGS,
    **LAYOUTS,
    **STRUCTURES,
}
