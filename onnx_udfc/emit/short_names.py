"""Numbers in place of names: of what was added, and of all that is inside where names are much of a file.

What exporters note at nodes of the program that they read (stack traces, the text of its graph) goes where it is worth
it: it tells of weights that are no longer there, and is more than 4-bit weights of a small network.

What was added around a weight has up to ten names in the file, and is nobody's to look for. Converters join the paths
of all that became one node, and give a tensor that name wherever it is written or read. What others know a file by
stays: inputs and outputs, and the nodes of layers, which reports are about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import onnx

from onnx_udfc.model.names import Taken, unique_name
from onnx_udfc.model.protos import all_graphs, reads
from onnx_udfc.model.saving import model_bytes

NUMBER = 4  # characters that a number takes
WORTH, LEAST = 0.25, 2048  # share of the file's bytes, and bytes, that have to be saved
WORTH_OF_TRACES = 0.05  # nobody looks for them in a compressed file
TRACES = "pkg.", "namespace"  # how keys begin that exporters write for their own debugging

SHORTENED = (
    "names of inner tensors, and of nodes that are no layers, would be a quarter of the file or more: they are numbers"
)
UNTRACED = "what the exporter noted of its program at nodes and tensors (stack traces, say) was left out: {:,} bytes"

Renaming = Callable[[str], str]


def shorten_names(model: onnx.ModelProto, kept: Collection[str], given: Collection[str]) -> tuple[str, ...]:
    """Name tensors t1, t2, … and nodes n1, n2, …, in place; returns what of the original's own went, in words.

    Nodes have names of their own; those in `kept` stay. `given` are the names of the original: where those are little
    of the file they stay, too, and so do the names of added nodes that run, as profiles show them.
    """
    ends = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    untraced = _untrace(model)
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()  # of nodes, of tensors
    for graph in all_graphs(model.graph):
        _rename(graph, *(_counting(count) for count in counts))
    nodes, tensors = (
        [name for name in c if name not in left] for c, left in zip(counts, ({*kept, ""}, ends), strict=True)
    )
    saved = sum(
        c[name] * (len(name) - NUMBER) for c, names in zip(counts, (nodes, tensors), strict=True) for name in names
    )
    whole = saved >= max(LEAST, WORTH * model_bytes(model))
    if not whole:
        folded = _folded(model.graph)
        nodes = [name for name in nodes if name in folded and name not in given]
        tensors = [name for name in tensors if name not in given]
    new = {*nodes, *tensors}
    taken = Taken(name for count in counts for name in count if name not in new)
    numbers = [
        {name: unique_name(f"{letter}{i}", taken) for i, name in enumerate(names)}
        for letter, names in (("n", nodes), ("t", tensors))
    ]
    for graph in all_graphs(model.graph):
        _rename(graph, *(partial(_numbered, found) for found in numbers))
    return (*untraced, SHORTENED) if whole else untraced


def _untrace(model: onnx.ModelProto) -> tuple[str, ...]:
    """Take out what exporters note for their own debugging, where it is worth it."""
    held = [thing for g in all_graphs(model.graph) for thing in (g, *g.node, *g.value_info, *g.input, *g.output)]
    traces = [[p for p in thing.metadata_props if p.key.startswith(TRACES)] for thing in held]
    saved = sum(p.ByteSize() for found in traces for p in found)
    if saved < max(LEAST, WORTH_OF_TRACES * model_bytes(model)):
        return ()
    for thing, found in zip(held, traces, strict=True):
        for entry in found:
            thing.metadata_props.remove(entry)
    return (UNTRACED.format(saved),)


def _folded(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that read constants alone, which onnxruntime computes once, when it loads the file."""
    constant = {"", *(t.name for t in graph.initializer), *(t.values.name for t in graph.sparse_initializer)}
    found = set()
    for node in graph.node:
        if node.name and constant.issuperset(reads(node)):
            found.add(node.name)
            constant.update(node.output)
    return found


def _numbered(numbers: Mapping[str, str], name: str) -> str:
    return numbers.get(name, name)


def _counting(counter: Counter[str]) -> Renaming:
    def count(name: str) -> str:
        counter[name] += 1
        return name

    return count


def _rename(graph: onnx.GraphProto, node_name: Renaming, tensor_name: Renaming) -> None:
    """Rename the nodes and the tensors of one graph, but not inside of its nodes."""
    for node in graph.node:
        node.name = node_name(node.name)
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = tensor_name(name)
    for thing in _named(graph):
        thing.name = tensor_name(thing.name)
    for note in graph.quantization_annotation:
        note.tensor_name = tensor_name(note.tensor_name)
        for entry in note.quant_parameter_tensor_names:
            entry.value = tensor_name(entry.value)


def _named(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto | onnx.ValueInfoProto]:
    """What has a tensor's name."""
    yield from graph.initializer
    yield from (sparse.values for sparse in graph.sparse_initializer)
    yield from (*graph.input, *graph.output, *graph.value_info)
