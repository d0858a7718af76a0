"""A network that is read once, and run once for all compressions whose runs of it would be the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_udfc.channels.groups import Channels, find_groups
from onnx_udfc.channels.onward import gates, peaked
from onnx_udfc.decide.asked import AUTO_WIDTHS, factorable, prunable, widths_of
from onnx_udfc.inputs import photographs
from onnx_udfc.inputs.how_many import BESIDE_RANKS, can_be_more, image_count, without_classes
from onnx_udfc.inputs.network_inputs import BATCH, REAL, NetworkInputs, settle_sizes, shows_classes
from onnx_udfc.inputs.sizes import can_be_made, wanted_inputs
from onnx_udfc.model.files import LoadedModel
from onnx_udfc.model.named import check_named
from onnx_udfc.model.network import Network, read
from onnx_udfc.model.samples import load_with_samples
from onnx_udfc.numerics.grids import width_of
from onnx_udfc.numerics.products import beside
from onnx_udfc.options import Options
from onnx_udfc.options.words import FLOAT
from onnx_udfc.repair.equalize import equalize
from onnx_udfc.repair.recurrent import cells_of
from onnx_udfc.repair.reference import Reference, trace
from onnx_udfc.repair.room import needs_of
from onnx_udfc.repair.sensitivity import informations
from onnx_udfc.runtime.machine import memory
from onnx_udfc.runtime.providers import asked_provider
from onnx_udfc.runtime.walk import Pieces

if TYPE_CHECKING:
    import onnx

    from onnx_udfc.channels.shapes import Size
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.runtime.sessions import Source

Maker = Callable[[Network, Channels, Options], NetworkInputs]

SAMPLES, MOST_SAMPLES = 8192, 24576  # output positions of a layer that the repair looks at
MANY_LAYERS = 56  # from here on SAMPLES
PER_UNKNOWN = 5  # positions that a layer should be seen at for each of its weights of an output
PICTURE = 4  # axes of an input that may be pictures
OVER = 1.15  # of the bound: what is taken beyond that is told
SHARE_OF_MEMORY = 4  # of the machine's memory a compression takes one such part, if nobody says otherwise

# What the inputs do not depend on. An option that is not named here is taken to matter: what is shared too rarely
# costs time, what is shared too often is wrong.
_NOT_FED = (
    "prune", "prune_layer", "rank_layer", "bits", "bits_uniform", "activations", "float16", "target", "method",
    "allocate", "budget", "align", "require", "select", "factor", "prune_stream", "batch", "validate", "task", "force",
    "for_", "max_loss", "dry_run", "attribution", "verbose", "debug", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """A run of the original, and all that it depends on beside the file.

    Attributes:
        asked: the options, less those that the inputs do not depend on (the seed is in them); names of the groups whose
            channels are ordered; bits whose errors of rounding are wanted; layers whose curves of rank are; recurrent
            ones whose states are.
        network: what was run: the original, or a copy with equalized channels (`Network.scale` says by how much).
        inputs: what was fed.
        reference: what came of it.
    """

    asked: tuple[Options, tuple[str, ...], tuple[float, ...], tuple[str, ...], frozenset[str]]
    network: Network
    inputs: NetworkInputs
    reference: Reference


@dataclass
class Original:
    """A network for many compressions.

    `apart` is what is run in place of a file without an axis of samples, None for all others; `skip` are the patterns
    that `channels` leaves alone; `fed` are the inputs that were made last, and by which options; `trace` is the last
    run.
    """

    loaded: LoadedModel
    network: Network
    skip: tuple[str, ...]
    channels: Channels
    fed: tuple[Options, NetworkInputs] | None = None
    trace: Trace | None = None
    apart: onnx.ModelProto | None = None

    def for_skip(self, skip: tuple[str, ...]) -> Original:
        """Itself, or the same network with channels that leave other names alone."""
        if skip == self.skip:
            return self
        check_named(skip, self.loaded.model, self.network)
        return Original(self.loaded, self.network, skip, find_groups(self.network, skip), apart=self.apart)


def read_original(source: Source, options: Options) -> Original:
    """Read a network and find its channels.

    Raises:
        UdfcError: it cannot be read.
    """
    loaded, apart = load_with_samples(source)
    pictures = any(len(i.type.tensor_type.shape.dim) == PICTURE for i in loaded.model.graph.input)
    unpacked = beside(photographs.stored) if pictures and not options.calibrate else None
    network = read(loaded.model)
    check_named(options.skip, loaded.model, network)
    if unpacked is not None:  # made-up inputs begin with them
        unpacked()
    settle_sizes(network, options)
    return Original(loaded, network, options.skip, find_groups(network, options.skip), apart=apart)


def traced(original: Original, options: Options, make: Maker, advance: Callable[[str], None]) -> Trace:
    """The run that these options ask for: the last one if it is the same, else a new one in its place.

    `make` makes the inputs, where others are wanted than the last time; `advance` is called with each layer's name when
    it is done.

    Raises:
        UdfcError: the inputs cannot be had, or the network does not run on them.
    """
    limits = limited(original, options)
    asked, inputs = _inputs(original, limits, make)
    network = equalized(original.network, inputs, options)
    groups = prunable(original.channels, options)
    widths, split = widths_of(options), factorable(original.network, original.channels, options)
    cells = cells_of(network) if options.bits != FLOAT else frozenset[str]()
    wanted = (asked, tuple(g.name for g in groups), widths, split, cells)
    last = original.trace
    if last is not None and last.asked == wanted and _same_scale(last.network, network):
        return last
    original.trace = last = None  # two of them would take twice the memory
    # Beside ranks, whose errors have few unknowns, those of channels must not look smaller than they are.
    few = bool(split) or not shows_classes(network, inputs)
    provider = asked_provider(options)
    pieces = Pieces(provider)
    matched, sizes, seed = inputs.matched, original.channels.shapes.sizes, options.seed
    known = {}
    # Where something goes or bits are spent freely, errors are weighed by what the answers make of them.
    if (groups or split or widths) and limits.weighed:
        known = informations(
            network, inputs.values, sizes, matched=matched, seed=seed, pieces=pieces, provider=provider
        )
    reference = trace(
        network, inputs.values, groups, matched=matched, few=few, gates=gates(network, sizes),
        peaked=peaked(network, sizes), samples=limits.positions, seed=seed, advance=advance, widths=widths,
        factorable=split, informations=known, cells=cells, pieces=pieces, narrow=limits.narrow,
    )  # fmt: skip
    original.trace = Trace(wanted, network, inputs, reference)
    return original.trace


@dataclass(frozen=True)
class Limits:
    """What fits the memory that a compression may take.

    Attributes:
        options: with as many made-up inputs as fit.
        positions: output positions of each layer that are looked at.
        batch: samples of a run of the whole network.
        narrow: what layers give is held in 16 bits.
        weighed: errors are weighed by what the answers make of them, by a backward pass.
        note: what became less, in words for the user; empty if nothing did.
    """

    options: Options
    positions: int
    batch: int = BATCH
    narrow: bool = False
    weighed: bool = True
    note: str = ""


def limited(original: Original, options: Options) -> Limits:
    """Inputs and positions, fewer where they need more memory than `--memory`, or a quarter of the machine's.

    Nobody naming a number or a bound, inputs are also fewer where a pass over them is large.
    """
    positions = samples_for(len(original.network.layers))
    bound = options.memory_bound or memory() / SHARE_OF_MEMORY
    if not can_be_made(original.network):
        return Limits(options, positions)
    unasked = not (options.number or options.calibrate or options.memory_bound)
    options = _counted(original, options)
    network, channels = original.network, original.channels
    needs = needs_of(network, channels.shapes, factorable(network, channels, options))
    usual = options.number or (REAL if options.calibrate else image_count(wanted_inputs(original.network)))
    if unasked and (less := needs.unasked(usual)) < usual:
        usual, options = less, options.counted(less)
    if not bound:
        return Limits(options, positions)
    needs, weighed = needs.within(bound, usual, positions), needs.goes_back(bound)
    number, fewer = needs.fitting(bound, usual, positions)
    batch, narrow = needs.batch(bound, BATCH), needs.narrow
    if (number, fewer) == (usual, positions):
        return Limits(options, positions, batch, narrow, weighed)
    counts = [(number, usual, "inputs"), (fewer, positions, "positions of each layer")]
    told = " and ".join(f"{left} {what} in place of {there}" for left, there, what in counts if left < there)
    note = f"{told}, to stay within {bound / 1e9:.3g} GB of memory (--memory)"
    if (needed := needs.least(number, fewer)) > OVER * bound:
        note += f"; it may take {needed / 1e9:.2g} GB all the same, so large are its tensors"
    return Limits(options.counted(number), fewer, batch, narrow, weighed, note)


def _counted(original: Original, options: Options) -> Options:
    """The options, with more made-up inputs than usual if nobody asked for a number.

    Pictures of classes, where a layer of several taps that may become two has more unknowns than it would be seen at
    positions; of what has no classes as many as show every layer at PER_UNKNOWN positions for each unknown, if few do.
    """
    network, channels = original.network, original.channels
    if options.number or options.calibrate:
        return options
    wanted, sizes = wanted_inputs(network), channels.shapes.sizes
    usual, more = image_count(wanted), image_count(wanted, BESIDE_RANKS)
    unseen = [layer.matrix_shape[2] / _positions(layer, sizes) for layer in network.layers.values()]
    number = without_classes(network, channels, wanted, math.ceil(PER_UNKNOWN * max(unseen, default=0)))
    if number > usual:
        return options.counted(number)
    parted = [network.layers[name] for name in factorable(network, channels, options)]
    wide = [layer for layer in parted if math.prod(layer.kernel) > 1]
    rare = any(usual * _positions(layer, sizes) < layer.matrix_shape[2] for layer in wide)
    return options.counted(more) if rare and more > usual and can_be_more(network, channels, more) else options


def _positions(layer: Layer, sizes: Mapping[str, Size]) -> int:
    """Of a layer's output for one input; 1 where its shape is not known."""
    shape = sizes.get(layer.node.outputs[0].name, ())
    return max(1, math.prod(shape[2:] if layer.kernel else shape[1:-1]))


def samples_for(layers: int) -> int:
    """Output positions of each layer that are looked at: more where layers are few, for the time is their product."""
    return min(MOST_SAMPLES, max(SAMPLES, SAMPLES * MANY_LAYERS // max(1, layers)))


def trace_order(options: Options) -> tuple[object, ...]:
    """A key by which settings that may share a run come to stand side by side."""
    return (
        options.prunes,
        bool(widths_of(options)),
        options.activations or 0,
        str(options.bits) if options.activations else "",
    )


def _inputs(original: Original, limits: Limits, make: Maker) -> tuple[Options, NetworkInputs]:
    """The inputs, made anew where the options ask for others, and the options that they depend on."""
    default, options = Options(), limits.options
    asked = replace(options, **{name: getattr(default, name) for name in _NOT_FED})
    if original.fed is None or original.fed[0] != asked:
        original.fed = None
        original.fed = (asked, make(original.network, original.channels, options).noted(limits.note))
    return original.fed


def _same_scale(first: Network, second: Network) -> bool:
    """Whether equalization divided the same channels by the same factors."""
    return first.scale.keys() == second.scale.keys() and all(
        np.array_equal(factor, second.scale[tensor]) for tensor, factor in first.scale.items()
    )


def equalized(network: Network, inputs: NetworkInputs, options: Options) -> Network:
    """The network itself, or a copy with the channels of its activations equalized where they are to be quantized."""
    if options.activations is None or options.bits == FLOAT:
        return network
    changed = network.copy()
    bits = max(AUTO_WIDTHS) if options.bits == "auto" else width_of(options.bits)
    return changed if equalize(changed, inputs.values, bits, Pieces(asked_provider(options))) else network
