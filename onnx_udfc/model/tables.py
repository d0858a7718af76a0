"""Tables: constant float matrices whose rows a Gather picks, such as embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_udfc.model.graph import is_dense, peek
from onnx_udfc.model.names import matches
from onnx_udfc.model.protos import inner_reads
from onnx_udfc.model.values import all_finite

if TYPE_CHECKING:
    from onnx_udfc.model.layers import Array
    from onnx_udfc.model.network import Network

LEAST = 4096  # values from which on a table is worth the nodes that give it back
NARROW = 32  # values of a row below which its scale would outweigh what its codes save

TABLES = ("Gather",)


@dataclass(frozen=True, eq=False)
class Table:
    """A Gather with its table.

    The table is `node.inputs[0]`, a gs.Constant (rows, columns) that no other node uses; the label is the name of the
    initializer that it was read from.
    """

    node: gs.Node
    label: str

    @property
    def constant(self) -> gs.Constant:
        """The table."""
        return self.node.inputs[0]

    @property
    def axis(self) -> int:
        """Along which scales run: one for each row, for their sizes differ most; for each column of narrow tables."""
        return 0 if self.constant.shape[1] >= NARROW else 1

    @property
    def bytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.constant.shape)) * int(np.dtype(self.constant.dtype).itemsize)

    @property
    def text(self) -> str:
        """The table in words: name, rows × columns."""
        return f"{self.label} ({' x '.join(str(int(n)) for n in self.constant.shape)})"

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """The shape of `matrix()`, known without reading the table."""
        rows, columns = (int(n) for n in self.constant.shape)
        return (1, rows, columns) if self.axis == 0 else (1, columns, rows)

    def matrix(self) -> NDArray[np.float64]:
        """The table (1, n, d) with what shares a scale in a row."""
        values = np.asarray(peek(self.constant), np.float64)
        return (values if self.axis == 0 else values.T)[None]

    def layout(self, matrix: Array) -> Array:
        """The inverse of `matrix()`: (1, n, d) to (rows, columns)."""
        table: Array = matrix[0] if self.axis == 0 else matrix[0].T
        return table


def find_tables(network: Network, skip: Sequence[str]) -> dict[str, Table]:
    """Name of a Gather → its table, in the order of the nodes.

    A table that something else needs in float, too, is none: codes beside it would only be more.
    `skip` are patterns of names of nodes and tensors that are left alone.
    """
    shared = network.origin.shared
    needed = {t.name for t in network.graph.outputs} | inner_reads(network.origin.model.graph)
    found: dict[str, Table] = {}
    for node in network.graph.nodes:
        constants = [t for t in node.inputs if isinstance(t, gs.Constant)]
        labels = [shared.get(t.name, t.name) for t in constants]
        left = any(matches(name, skip) for name in (node.name, *labels))
        if not left and _is_table(node):
            found[node.name] = table_of(network, node)
        elif left or node.name not in network.layers:
            needed.update(labels)
    free = {name: table for name, table in found.items() if table.label not in needed}
    return {name: table for name, table in free.items() if all_finite(peek(table.constant))}


def table_of(network: Network, node: gs.Node) -> Table:
    """The table of a Gather that is known to have one."""
    name = str(node.inputs[0].name)
    return Table(node, network.origin.shared.get(name, name))


def _is_table(node: gs.Node) -> bool:
    """Whether the node picks rows of a constant matrix that is large enough to matter."""
    if node.op != "Gather" or node.domain or not is_dense(node.inputs[0]):
        return False
    shape = tuple(node.inputs[0].shape)
    return len(shape) == 2 and node.attrs.get("axis", 0) in (0, -2) and int(np.prod(shape)) >= LEAST


def table_lines(tables: dict[str, Table], total: int) -> tuple[str, ...]:
    """A line for each table, with its share of the file's `total` bytes."""
    labels = {table.label: table for table in tables.values()}
    return tuple(
        f"table of a Gather: {table.text}, {table.bytes} bytes, {100 * table.bytes / max(total, 1):.0f} % of the"
        " file's; --bits makes it smaller"
        for table in labels.values()
    )
