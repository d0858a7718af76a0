"""In which order a network expects red, green and blue, where nobody says: read off its own answers.

A classifier of photographs says more about which photograph it was given where the colours are right. The measure for
one photograph x is KL(p(x) ‖ E p), p the answers' probabilities, whose mean is the mutual information of `reaction`;
that of both orders is compared photograph by photograph, and Student's t of the differences tells whether they are more
than chance. Red first is what most networks take, so blue first must be clearly better. A classifier of a few classes,
or of small pictures, tells nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.inputs.choice import affordable
from onnx_udfc.inputs.classifier import Ask, asked, class_scores
from onnx_udfc.inputs.kinds import Scale, Wanted, to_network
from onnx_udfc.inputs.photographs import photographs
from onnx_udfc.inputs.reaction import informations

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

Double = NDArray[np.float64]

DRAWN, VIVID, FIRST = 96, 64, 24  # photographs: drawn, the most colourful of them, and those that are run first
PIXELS = 4_000_000  # of the colourful ones together, at most
CLASSES, SIDE = 100, 64  # below, nothing is told of the order
MOST_CLASSES = 100_000  # a row of more is an image laid flat, and its answers would fill the memory
CLEARLY = 3.0  # Student's t: chance gives it to one in 700
BLUE_FIRST = (
    "colours assumed to be in the order blue, green, red: the network tells more photographs apart than in the other;"
    " say --input-colour otherwise"
)


def expects_blue_first(network: Network, wanted: Wanted, scale: Scale) -> bool:
    """Whether a classifier clearly says more about photographs whose channels are blue, green, red."""
    scores = class_scores(network)
    if not scores or not CLASSES <= scores[1] <= MOST_CLASSES:
        return False
    if wanted.channels != 3 or len(wanted.size) != 2 or min(wanted.size) < SIDE:
        return False
    number = min(VIVID, affordable(network) // 2, PIXELS // int(np.prod(wanted.size)))
    ask = asked(network, wanted.spec) if number >= FIRST else None
    if ask is None:
        return False
    z = _vivid(wanted.size, number)
    found = _preference(ask, z[:FIRST], wanted, scale)
    return found > 0 and _preference(ask, z, wanted, scale) > CLEARLY


def _preference(ask: Ask, z: NDArray[np.float32], wanted: Wanted, scale: Scale) -> float:
    """How clearly the answers to pictures z say more where blue comes first: Student's t; negative where red should."""
    red, blue = (ask(to_network(z, wanted, replace(scale, colour=colour))) for colour in ("rgb", "bgr"))
    return student(informations(blue) - informations(red)) if red.size and blue.size else 0.0


def student(differences: Double) -> float:
    """Student's t of differences (n,): their mean over its own deviation; 0 where all are alike."""
    deviation = float(differences.std(ddof=1))
    return float(differences.mean()) / deviation * float(np.sqrt(len(differences))) if deviation > 0 else 0.0


def _vivid(size: tuple[int, ...], number: int) -> NDArray[np.float32]:
    """The most colourful of some photographs: where red and blue differ little, their order says little."""
    height, width = size
    z = photographs(DRAWN, 3, (height, width), np.random.default_rng(1))
    difference = np.abs(z[:, 0] - z[:, 2]).mean((1, 2))
    return z[np.argsort(-difference, kind="stable")[:number]]
