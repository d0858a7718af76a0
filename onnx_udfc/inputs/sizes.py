"""Sizes for the axes that a network leaves open: one choice, for inspection and for every run.

The user's come first (`--input-shape`), then what the file fixes, then those of real inputs, then what its metadata
says (`imgsz`), then a guess by the kind of network: 224 for what ends in one vector; 48 x 320, or another height of
text lines, for what reads lines (a picture in, scores in every column out); near 320 and a multiple of the total stride
for what gives coarser maps; 224 for other networks on pictures; a second of sound. A guess is tried, and others after
it, until the channels fit their layers and onnxruntime runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_udfc.channels.shapes import fits
from onnx_udfc.errors import ModelError, RequestError, UdfcError
from onnx_udfc.inputs.kinds import Wanted, called_sound, channels_last, one_feed
from onnx_udfc.inputs.sounds import RATE
from onnx_udfc.inputs.uses import Use, use_of
from onnx_udfc.model.files import load
from onnx_udfc.model.graph import is_closed
from onnx_udfc.model.layers import kind_of
from onnx_udfc.model.network import Network, read
from onnx_udfc.runtime.runs import InputSpec, outputs_of, specs
from onnx_udfc.runtime.sessions import Source, session_of

Sizes = dict[str, tuple[int, ...]]

CLASSIFIED = (224, 32, 28, 64, 96, 112, 128, 160, 192, 256, 299, 320, 384, 416, 512, 640)
DENSE = 320
MAP_STRIDE = 4  # pixels that one of the coarsest map stands for, from which on a network is a detector or segments
LARGEST_TOLD = 1280  # side in a file's own metadata that is believed
UNKNOWN = 64  # side of the pictures of a network that cannot be read
LINES = ((48, 320), (32, 320), (32, 100), (64, 320), (64, 256))  # heights and widths of text lines
SOUNDS = (RATE, RATE // 2, 4096, 2048, 1024, 576, 512, 256)
BANDS = (64, 80, 128, 81, 105, 144, 40, 96, 161, 229, 257)  # mels and twelfths of octaves, of spectra
SEQUENCE = 64  # tokens, or steps of another sequence
LONGER = (256, 1024, 4096, 16384)  # where that is too short: a network may cut off what it takes as context
_COARSEST = 128  # stride above which it is no longer that of a map
_MOST_TRIES = 6


def input_specs_of(network: Network) -> tuple[InputSpec, ...]:
    """The declared inputs; an open axis is None.

    Raises:
        RequestError: an input is not a numeric tensor, or has no shape.
    """
    declared = []
    for tensor in network.graph.inputs:
        if tensor.shape is None and tensor.type == "tensor_type":
            raise RequestError(
                f"input {tensor.name!r} has no shape in the file, not even a number of axes, so no values can be made"
                " up for it; export the model with one, or take --method udfc, which runs nothing"
            )
        if tensor.dtype is None or np.dtype(tensor.dtype).kind not in "fiub" or tensor.type != "tensor_type":
            raise RequestError(
                f"input {tensor.name!r} is not a numeric tensor, so no values can be made up for it"
                " (--method udfc needs none)"
            )
        declared.append((tensor.name, tuple(tensor.shape or ()), np.dtype(tensor.dtype)))
    return specs(declared)


def wanted_inputs(network: Network) -> tuple[Wanted, ...]:
    """What is made up for each input, with the network's settled sizes; they are settled where they are not yet."""
    if not network.sizes:
        settle(network)
    wanted = _wanted(network, network.sizes)
    for name, choices in network.branches.items():
        wanted = tuple(_choosing(w, name, choices) for w in wanted)
    return wanted


def _wanted(network: Network, sizes: Mapping[str, tuple[int, ...]]) -> tuple[Wanted, ...]:
    found = [Wanted(spec, sizes[spec.name], use_of(network, spec.name)) for spec in input_specs_of(network)]
    main = max(found, key=lambda w: len(w.shape), default=None)
    side = () if main is None else main.size if len(main.shape) == 4 else _steps(main)
    normed = network.first_norm() is not None
    return tuple(Wanted(w.spec, w.shape, w.use, side, normed=normed) for w in found)


def _steps(sequence: Wanted) -> tuple[int, ...]:
    """How long a sequence is: along its one open axis but the samples', else beside columns that something reads."""
    axes = [i for i in range(len(sequence.shape)) if i != sequence.spec.axis]
    left_open = [i for i in axes if sequence.spec.shape[i] is None]
    at = left_open[0] if len(left_open) == 1 else axes[-2] if sequence.use.width and len(axes) > 1 else -1
    return (sequence.shape[at],) if sequence.shape else ()


def undescribed(given: Sequence[InputSpec]) -> tuple[Wanted, ...]:
    """What is made up for inputs of which nothing but the declaration is known: whole numbers are 0 or 1."""
    use = Use(rows=2)
    guesses = ((s, _guess(s, Use(), (UNKNOWN, UNKNOWN), SEQUENCE)) for s in given)
    return tuple(
        Wanted(
            s,
            tuple(d or (1 if i == s.axis else g[i]) for i, d in enumerate(s.shape)),
            use if s.dtype.kind in "iu" and len(s.shape) != 4 else Use(),
        )
        for s, g in guesses
    )


def described(
    source: Source,
    given: Sequence[InputSpec],
    asked: Sequence[str] = (),
    real: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Wanted, ...]:
    """What is made up for the inputs of a model in a file; by the declaration alone where it cannot be read.

    `asked` and `real` are as in `settle`.

    Raises:
        RequestError: an asked shape does not fit the input.
    """
    try:
        network = read(load(source).model)
        found = {s.name for s in input_specs_of(network)}
    except UdfcError:
        found = set()
    if found != {s.name for s in given}:
        return undescribed(given)
    settle(network, asked, real)
    return wanted_inputs(network)


def settle(network: Network, asked: Sequence[str] = (), real: Mapping[str, tuple[int, ...]] | None = None) -> None:
    """Choose the sizes of all inputs and write them into the network, with a note where they were guessed.

    `asked` are texts NAME=1x3x640x640, whose name may be left out where there is one input; `real` is input name →
    shape (1, ...) of real inputs.

    Raises:
        RequestError: an asked shape does not fit the input.
    """
    if not asked and not can_be_made(network):
        return  # what needs values says so
    given = input_specs_of(network)
    told = _parsed(asked, given)
    names = {t.name: tuple(t.shape or ()) for t in network.graph.inputs}
    known = _by_symbol(names, told | {k: v for k, v in (real or {}).items() if k not in told})
    uses = {s.name: use_of(network, s.name) for s in given}
    tries = [_filled(given, names, known, guess) for guess in _guesses(network, given, uses)]
    open_axes = {s.name for s in given if any(d is None for i, d in enumerate(s.shape) if i != s.axis)}
    guessed = sorted(n for n in open_axes if n not in told and n not in (real or {}))
    branches = any(s.by_run and len(uses[s.name].choices) > 1 for s in given)
    network.sizes = _first_that_runs(network, tries if guessed else tries[:1]) if guessed or branches else tries[0]
    if guessed:
        shapes = ", ".join(f"{n} {'x'.join(map(str, network.sizes[n]))}" for n in guessed)
        network.notes.append(f"sizes that the file leaves open were taken as {shapes}; say --input-shape otherwise")


def can_be_made(network: Network) -> bool:
    """Whether values can be made up for all inputs: they are tensors of numbers that have a shape."""
    try:
        input_specs_of(network)
    except RequestError:
        return False
    return True


def check_sizes(network: Network) -> None:
    """See to it that the network can be run with the sizes that were settled.

    Raises:
        RequestError: they were guessed, and it ran with none of those that were tried.
    """
    if not network.ran:
        shapes = ", ".join(f"{name} {'x'.join(map(str, sizes))}" for name, sizes in network.sizes.items())
        raise RequestError(
            f"the file leaves sizes open, and the network does not run with those that were tried ({shapes}, ...); say"
            " --input-shape"
        )


def _parsed(asked: Sequence[str], given: Sequence[InputSpec]) -> Sizes:
    """Asked shapes by input name."""
    found: Sizes = {}
    for spec, shape in _told(asked, given):
        if spec.name in found:
            raise RequestError(f"--input-shape: {spec.name} is given twice")
        found[spec.name] = tuple(1 if i == spec.axis and spec.batch is None else a for i, a in enumerate(shape))
    return found


def _told(asked: Sequence[str], given: Sequence[InputSpec]) -> Iterator[tuple[InputSpec, tuple[int, ...]]]:
    """Inputs and their asked shapes."""
    by_name = {s.name: s for s in given}
    for text in asked:
        name, _, shape = text.rpartition("=")
        if not name and len(given) != 1:
            raise RequestError(f"--input-shape {text}: say which input, e.g. {given[0].name}={shape}")
        spec = by_name.get(name or given[0].name)
        if spec is None:
            raise RequestError(f"--input-shape {text}: no input {name!r}; there are {', '.join(by_name)}")
        yield spec, _fitting(text, tuple(int(d) for d in shape.lower().split("x")), spec)


def _fitting(text: str, shape: tuple[int, ...], spec: InputSpec) -> tuple[int, ...]:
    """An asked shape, if it fits the declared one; that of the one sample of a run needs no 1 before it."""
    shape = (1, *shape) if len(shape) == len(spec.shape) - 1 and spec.axis == 0 and spec.batch == 1 else shape
    declared = "x".join("?" if d is None else str(d) for d in spec.shape)
    wrong = len(shape) != len(spec.shape) or any(
        d is not None and d != a for i, (d, a) in enumerate(zip(spec.shape, shape, strict=False)) if i != spec.axis
    )
    if wrong or (spec.batch is not None and shape[spec.axis or 0] != spec.batch):
        raise RequestError(f"--input-shape {text}: the file declares {spec.name} as {declared}")
    return shape


def _by_symbol(names: Mapping[str, tuple[Any, ...]], known: Sizes) -> dict[str, tuple[int | None, ...]]:
    """Known sizes of all inputs: what is known of a named axis holds wherever the name stands."""
    symbols = {
        dim: size for name, shape in known.items() for dim, size in zip(names[name], shape, strict=True)
        if isinstance(dim, str) and dim and dim != "?"
    }  # fmt: skip
    return {
        name: known.get(name) or tuple(symbols.get(d) if isinstance(d, str) else None for d in dims)
        for name, dims in names.items()
    }


def _filled(
    given: Sequence[InputSpec],
    names: Mapping[str, tuple[Any, ...]],
    known: Mapping[str, tuple[int | None, ...]],
    guess: Mapping[str, tuple[int, ...]],
) -> Sizes:
    """Concrete shapes: declared, else known, else guessed; one sample where that is open."""
    symbols: dict[str, int] = {}
    result = {}
    for spec in given:
        sizes = []
        for i, dim in enumerate(spec.shape):
            named = names[spec.name][i] if i < len(names[spec.name]) else None
            size = dim or known[spec.name][i] or (1 if i == spec.axis else None)
            if size is None:
                key = named if isinstance(named, str) and named not in ("", "?") else f"{spec.name}/{i}"
                size = symbols.setdefault(key, guess[spec.name][i])
            sizes.append(int(size))
        result[spec.name] = tuple(sizes)
    return result


def _guesses(network: Network, given: Sequence[InputSpec], uses: Mapping[str, Use]) -> Iterator[Sizes]:
    """Sizes (for every axis, open or not) to try one after another."""
    pictures = [s for s in given if len(s.shape) == 4]
    sides = _sides(network, pictures[0], uses[pictures[0].name]) if pictures else [(1, 1)]
    rows = any(s.dtype.kind == "f" and len(s.shape) in (2, 3) and s.shape[-1] is None for s in given)
    sound = any(_sound(s, uses[s.name]) for s in given)
    lengths = (
        SOUNDS if sound else tuple(dict.fromkeys((_spanned(network), SEQUENCE, *(SOUNDS if rows else ()), *LONGER)))
    )
    for band in BANDS:
        spectra = {s.name: (1, lengths[0], band) for s in given if _is_spectrum(s, uses[s.name])}
        if spectra:
            yield {s.name: spectra.get(s.name) or _guess(s, uses[s.name], sides[0], lengths[0]) for s in given}
    for number in range(max(len(sides), len(lengths))):
        side, length = sides[min(number, len(sides) - 1)], lengths[min(number, len(lengths) - 1)]
        yield {s.name: _guess(s, uses[s.name], side, length) for s in given}


def _guess(spec: InputSpec, use: Use, side: tuple[int, int], length: int) -> tuple[int, ...]:
    rank = len(spec.shape)
    if spec.axis == 1 and rank in (2, 3):
        return (length, 1, use.width or length)[:rank]
    if rank == 4:
        channels = use.channels or 3
        return (1, *side, channels) if channels_last(spec.shape, use) else (1, channels, *side)
    if rank == 5:
        return (1, use.channels or 3, 16, 112, 112)
    if rank in (2, 3) and use.width and (not use.convolved or (rank == 3 and use.convolved == 2)):
        return (1, use.width) if rank == 2 else (1, length, use.width)
    if rank == 3 and spec.shape[2] is not None and spec.shape[1] is None:
        return (1, length, spec.shape[2])
    if rank == 3:
        channels = use.channels if use.convolved == 1 and use.channels else SEQUENCE
        return (1, channels, length)
    if rank == 2 and use.rows and use.rows < length:
        return (1, use.rows)
    return (1,) * max(0, rank - 1) + (length,)


def _is_spectrum(spec: InputSpec, use: Use) -> bool:
    """Whether an input is steps by columns of an unknown number that a convolution of two axes reads."""
    return spec.shape[1:] == (None, None) and spec.dtype.kind == "f" and use.convolved == 2 and not use.width


def _sound(spec: InputSpec, use: Use) -> bool:
    """Whether an open input is a sound: numbers in a row, called so or read by a convolution of one axis."""
    if spec.dtype.kind == "f" and len(spec.shape) == 2 and called_sound(spec.name):
        return True
    if spec.dtype.kind != "f" or use.convolved != 1 or len(spec.shape) not in (2, 3):
        return False
    return len(spec.shape) == 2 or 1 in spec.shape[1:] or use.channels == 1


def _sides(network: Network, spec: InputSpec, use: Use) -> list[tuple[int, int]]:
    """Heights and widths to try for the network's pictures."""
    if told := _exported(network):
        return [*told, *((side, side) for side in CLASSIFIED)]
    if _reads_lines(network):
        height = spec.shape[1 if channels_last(spec.shape, use) else 2]
        fixed = [(height, max(8, LINES[0][1] * height // LINES[0][0] // 8 * 8))] if height else []
        return [*fixed, *LINES]
    if _ends_in_a_vector(network):
        return [(side, side) for side in CLASSIFIED]
    stride = _total_stride(network)
    if stride < MAP_STRIDE:
        return [(side, side) for side in CLASSIFIED]
    first = max(1, round(DENSE / stride)) * stride
    return [(side, side) for side in (first, *(s for s in CLASSIFIED if s != first))]


def _reads_lines(network: Network) -> bool:
    """Whether the one output is scores over characters in every column: (n, columns, characters) behind a Softmax."""
    if len(network.graph.outputs) != 1 or len(network.graph.inputs) != 1:
        return False
    output = network.graph.outputs[0]
    shape = output.shape
    if shape is None or len(shape) != 3 or not isinstance(shape[2], int | np.integer) or shape[2] < 10:
        return False
    node, last = _before(output), ("Softmax", "LogSoftmax", "Add", "MatMul", "Gemm", "LSTM", "Transpose")
    return node is not None and node.op in last and not isinstance(shape[1], int | np.integer)


def _before(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor, but for what only names or turns it."""
    node = tensor.inputs[0] if tensor.inputs else None
    while node is not None and node.op in ("Identity", "Cast", "Reshape") and node.inputs[0].inputs:
        node = node.inputs[0].inputs[0]
    return node


def _ends_in_a_vector(network: Network) -> bool:
    """Whether every output is one vector a sample: scores of classes, a descriptor."""
    shapes = [t.shape for t in network.graph.outputs]
    if any(shape is None for shape in shapes):
        return all(_pooled(t) for t in network.graph.outputs)
    return all(len(s) <= 2 or all(d == 1 for d in s[2:]) for s in shapes)


def _pooled(tensor: gs.Tensor) -> bool:
    """Whether a tensor of unknown shape is a layer's vector."""
    node = _before(tensor)
    return node is not None and node.op in ("Gemm", "Softmax", "Flatten")


def _total_stride(network: Network) -> int:
    """How many pixels one of the coarsest map stands for.

    Maps that meet are of one size: a coarse one that was enlarged has the stride of the one that it is joined with.
    """
    strides: dict[int, int] = {id(t): 1 for t in network.graph.inputs}
    for node in network.graph.nodes:
        before = min((strides[id(t)] for t in node.inputs if id(t) in strides), default=0)
        if not before or node.op in ("Shape", "Size"):  # of constants, or sizes alone
            continue
        strided = kind_of(node.op).convolves or node.op in ("MaxPool", "AveragePool")
        after = before * max(node.attrs.get("strides") or [1]) if strided else before
        for tensor in node.outputs:
            strides[id(tensor)] = after if after <= _COARSEST else before
    return max(strides.values(), default=1)


def _exported(network: Network) -> list[tuple[int, int]]:
    """Height and width that a file says it was exported for, as those of YOLO networks do."""
    texts = [entry.value for entry in network.origin.model.metadata_props if entry.key == "imgsz"]
    sides = [int(side) for text in texts for side in re.findall(r"\d+", text)][:2]
    return [(sides[0], sides[-1])] if sides and min(sides) >= UNKNOWN and max(sides) <= LARGEST_TOLD else []


def _spanned(network: Network) -> int:
    """Steps of a sequence that the widest of the convolutions spans, SEQUENCE at least.

    Taps that lie farther apart than a sequence is long meet nothing but padding: dilated ones would be seen as useless.
    """
    steps: dict[int, int] = {}  # of the input, from one place of a tensor to the next
    widest = 1
    for node in network.graph.nodes:
        step, kind = max((steps.get(id(t), 1) for t in node.inputs), default=1), kind_of(node.op)
        if kind.convolves or kind.stuffed or node.op in ("MaxPool", "AveragePool"):
            kernel = node.attrs.get("kernel_shape") or _kernel(node)
            dilations = node.attrs.get("dilations") or [1] * len(kernel)
            spans = ((k - 1) * d for k, d in zip(kernel, dilations, strict=False))
            widest = max(widest, 1 + step * max(spans, default=0))
            stride = max(node.attrs.get("strides") or [1])
            step = max(1, step // stride) if kind.stuffed else step * stride
        steps |= {id(tensor): step for tensor in node.outputs}
    return next((n for n in (SEQUENCE, *LONGER[:-1]) if n >= widest), LONGER[-2])


def _kernel(node: gs.Node) -> tuple[int, ...]:
    weight = node.inputs[1].shape if len(node.inputs) > 1 else None
    return tuple(int(n) for n in weight[2:]) if weight is not None and is_closed(weight) else ()


def _first_that_runs(network: Network, tries: Sequence[Sizes]) -> Sizes:
    """The first sizes with which the channels fit and the network runs; the first that fit where none are."""
    fitting: list[Sizes] = []
    session = session_of(network)
    for sizes in tries:
        if len(fitting) < _MOST_TRIES and (len(tries) == 1 or fits(network, sizes)):
            if session is None or _runs(network, session, sizes):
                return sizes
            fitting.append(sizes)
    if session is not None:
        network.ran = False
    return fitting[0] if fitting else tries[0]


def _runs(network: Network, session: Any, sizes: Sizes) -> bool:
    """Whether the network runs with these sizes; remembers with which of the values that select a branch it does."""
    wanted = _wanted(network, sizes)
    selecting = next((w for w in wanted if w.kind == "choices" and w.spec.by_run), None)
    if selecting is None:
        return _answers(session, wanted)
    name, choices = selecting.spec.name, selecting.use.choices[-_MOST_TRIES:]
    good = tuple(c for c in choices if _answers(session, tuple(_choosing(w, name, (c,)) for w in wanted)))
    if good:
        network.branches[name] = good
    return bool(good)


def take_singly(network: Network) -> bool:
    """Fix the number of samples that the file leaves open, if the network runs with one and not with two.

    Returns:
        Whether that is so, and was not known before.
    """
    session = None if network.together or not can_be_made(network) else session_of(network)
    wanted = () if session is None else wanted_inputs(network)
    fixed = singly(session, wanted)
    if fixed == wanted:
        return False
    shapes = {w.spec.name: w.spec.shape for w in fixed}
    for tensor in network.graph.inputs:
        tensor.shape = [d or s for d, s in zip(shapes[tensor.name], tensor.shape, strict=True)]
    network.together = 1
    network.notes.append("the network takes one input at a time: with more, which the file allows, it does not run")
    return True


def singly(session: Any, wanted: tuple[Wanted, ...]) -> tuple[Wanted, ...]:
    """The inputs, with the number of samples fixed at one where a network runs with one and not with two.

    Exporters write down sizes of the one sample that they traced, and states of one sample are declared as such.
    """
    axes = {w.spec.name: w.spec.axis or 0 for w in wanted if not w.spec.by_run}
    still_open = all(w.spec.batch is None for w in wanted if not w.spec.by_run)
    if not axes or not still_open or _answers(session, wanted, 2) or not _answers(session, wanted):
        return wanted
    shapes = [tuple(1 if i == axes.get(w.spec.name) else d for i, d in enumerate(w.spec.shape)) for w in wanted]
    return tuple(replace(w, spec=replace(w.spec, shape=s)) for w, s in zip(wanted, shapes, strict=True))


def _choosing(wanted: Wanted, name: str, choices: tuple[float, ...]) -> Wanted:
    """An input with other values to choose from, if it has that name."""
    return replace(wanted, use=replace(wanted.use, choices=choices)) if wanted.spec.name == name else wanted


def _answers(session: Any, wanted: tuple[Wanted, ...], batch: int | None = None) -> bool:
    try:
        outputs_of(session, [], one_feed(wanted, batch=batch))
    except ModelError:
        return False
    return True
