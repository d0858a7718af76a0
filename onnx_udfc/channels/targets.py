"""Computed sizes that name channels: the target of a Reshape, an Expand or a Resize, and where it is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnx_udfc.channels.arithmetic import OPEN, UNKNOWN, Numbers, counted

if TYPE_CHECKING:
    from onnx_udfc.channels.shapes import Size

READS_SIZES: Mapping[str, tuple[int, ...]] = {"Expand": (1,), "Reshape": (1,), "Resize": (2, 3), "Upsample": (1,)}
PASSING = ("Cast", "Identity")


@dataclass(frozen=True)
class Target:
    """A computed target, and what its entries must be.

    Attributes:
        op: of the node that reads it.
        index: which of the node's inputs it is.
        places: axis with channels → its entry.
        wanted: axis → what the entry must be.
        copied: axis → what 0 means there; only a Reshape knows that.
        free: values that fit whatever the size is.
    """

    op: str
    index: int
    places: Mapping[int, int]
    wanted: Mapping[int, float]
    copied: Mapping[int, int]
    free: tuple[int, ...] = ()


@dataclass(frozen=True)
class Piece:
    """An entry of a target that is put together by a Concat: entry `place` of the Concat's input `index`."""

    maker: gs.Node
    index: int
    place: int
    length: int

    @property
    def tensor(self) -> gs.Tensor:
        """The input of the Concat."""
        return self.maker.inputs[self.index]


def adapts(target: Target, axis: int, numbers: Numbers, always: bool) -> bool:
    """Whether the entry of an axis fits by itself.

    `numbers` are the target's, at hand; with `always` it must fit for any count of channels.
    """
    place = target.places[axis]
    value, mark = numbers.values[place], int(numbers.marks[place])
    if mark & UNKNOWN:
        return False
    if value == 0 and axis in target.copied:
        return target.copied[axis] == target.wanted[axis]
    if counted(mark):
        return bool(value == target.wanted[axis])
    return value in target.free or bool(value == target.wanted[axis] and (not always or target.wanted[axis] == 1))


def editable(target: Target, piece: Piece, mark: int) -> bool:
    """Whether a constant may take the place of an entry: nothing but channels decides on it, and nobody else reads it.

    A size that the user gives is one that names the channels, unless a Reshape merges axes.
    """
    if isinstance(piece.tensor, gs.Constant):
        return True
    given = bool(mark & UNKNOWN) and target.op != "Reshape"
    return piece.length == 1 and (given or not mark & OPEN)


def pieces_of(target: gs.Tensor, size_of: Callable[[gs.Tensor], Size | None]) -> dict[int, Piece]:
    """Entry → the piece that it is, for a target that a Concat puts together and that is read as a target only."""
    while _only_targets(target) and target.inputs and target.inputs[0].op in PASSING:
        target = target.inputs[0].inputs[0]
    if not target.inputs or target.inputs[0].op != "Concat" or not _only_targets(target):
        return {}
    pieces: dict[int, Piece] = {}
    for index, tensor in enumerate(target.inputs[0].inputs):
        size = size_of(tensor)
        if size is None or len(size) != 1:
            break
        for place in range(size[0]):
            pieces[len(pieces)] = Piece(target.inputs[0], index, place, size[0])
    return pieces


def _only_targets(tensor: gs.Tensor) -> bool:
    """Whether all users of a tensor read it as the size that they are to have."""
    return all(
        _only_targets(user.outputs[0])
        if user.op in PASSING
        else all(t is not tensor or i in READS_SIZES.get(user.op, ()) for i, t in enumerate(user.inputs))
        for user in tensor.outputs
    )
