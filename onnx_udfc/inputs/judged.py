"""The made-up inputs that a result is judged on: of another seed than those that it was fitted on, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnx_udfc.inputs.choice import affordable
from onnx_udfc.inputs.how_many import image_count
from onnx_udfc.inputs.kinds import Wanted

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

OTHER_IMAGES = 1000  # added to the seed: nothing is judged on the inputs that the repair has seen
MOST, FEWEST = 96, 16  # inputs
MORE = 2  # times as many as are fitted on: a judgement costs little and is counted in answers
PROBES = 2  # times those that may be run to find out what a network expects, at most


def judged_count(network: Network, wanted: Sequence[Wanted]) -> int:
    """How many inputs a result is judged on, where nobody says so: as many as are no great work."""
    usual = min(MORE * image_count(wanted), MOST)
    return max(min(usual, FEWEST), min(usual, PROBES * affordable(network)))
