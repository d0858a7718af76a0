"""What a compression does in addition where activations are quantized."""

from __future__ import annotations

from dataclasses import replace

from onnx_udfc.decide.counts_and_bits import AUTO_WIDTHS
from onnx_udfc.decide.plan import FLOAT, Plan
from onnx_udfc.emit.placement import Placement, integer_bits
from onnx_udfc.emit.targets import activation_tensors
from onnx_udfc.inputs.network_inputs import NetworkInputs
from onnx_udfc.model.loudness import before_logarithm
from onnx_udfc.model.network import Network
from onnx_udfc.numerics.activation_grids import ActivationParams
from onnx_udfc.numerics.grids import width_of
from onnx_udfc.options import Options
from onnx_udfc.repair.equalize import equalize
from onnx_udfc.repair.harm import spared
from onnx_udfc.repair.ranges import measure_ranges
from onnx_udfc.runtime.pieces import Pieces
from onnx_udfc.runtime.providers import asked_provider


def equalized(network: Network, inputs: NetworkInputs, options: Options) -> Network:
    """The network itself, or a copy with the channels of its activations equalized where they are to be quantized."""
    if options.activations is None or options.bits == FLOAT:
        return network
    changed = network.copy()
    bits = max(AUTO_WIDTHS) if options.bits == "auto" else width_of(options.bits)
    return changed if equalize(changed, inputs.values, bits, Pieces(asked_provider(options))) else network


def placed(network: Network, plan: Plan, options: Options) -> tuple[Plan, Placement | None]:
    """Where activations are quantized, and the plan with the weight bits that integer kernels compute exactly."""
    if options.activations is None:
        return plan, None
    placement = activation_tensors(network, _integers(network, plan), options.target)
    return replace(plan, bits=integer_bits(network, plan.bits, placement)), placement


def ranges(
    network: Network, plan: Plan, placement: Placement, inputs: NetworkInputs, options: Options
) -> tuple[Placement, dict[str, ActivationParams]]:
    """Grids of all quantized tensors of a network whose weights are final, and which tensors these are.

    A placement is made so that as many layers as possible run as integers; those whose quantized activations ruin what
    the network answers are taken out of it.
    """
    real, pieces = inputs.source == "calibration", Pieces(asked_provider(options))
    grids = measure_ranges(network, placement, inputs.values, real=real, pieces=pieces)
    left = spared(network, _integers(network, plan), options.target, placement, grids, inputs.values)
    if left is placement:
        return placement, grids
    return left, measure_ranges(network, left, inputs.values, real=real, pieces=pieces)


def _integers(network: Network, plan: Plan) -> list[str]:
    """The layers that may run as integers: not those for which eight bits are too few."""
    quiet = before_logarithm(network)
    return [name for name in plan.bits if name not in quiet]
