"""The compressed network, layer after layer: refit, round, correct the bias; each layer sees what came before it.

For a layer with patches p of the compressed input and the original's output t at the same positions (plus what is
missing in the residual stream, where the output is added to one), the weights are refitted toward the ones that are
left (see `reconstruct`), rounded with the same Gram, and the bias takes the means. All of it happens in the matched
domain (see `reference`); what is written back is W / q with the bias

    E[t] - (W / q) E[p] + ρ d        ρ: explained fraction of the variance,  d = E[y] - β

where d is how far these images move the mean of the original layer from the stored one: what they get wrong there they
get wrong here too, as far as the layer still computes the same. A network that lost nothing keeps its biases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.model.coded import Coded
from onnx_udfc.model.layers import own_bias
from onnx_udfc.model.tied import tied_layers, twins
from onnx_udfc.numerics.factors import evened, factors, first_gram, middle_covariance
from onnx_udfc.numerics.joint_refit import refit_together
from onnx_udfc.numerics.layer_fit import Sight
from onnx_udfc.numerics.moments import Array, patches, sample_targets
from onnx_udfc.numerics.products import beside
from onnx_udfc.numerics.rounding import basis_of, quantize_finely, quantize_layer
from onnx_udfc.repair.alike import Tie, as_one, side_by_side
from onnx_udfc.repair.ordering import TOO_LARGE
from onnx_udfc.repair.readers import bounds_after
from onnx_udfc.repair.recurrent import cells_of, round_cell
from onnx_udfc.repair.reference import LayerReference, Reference, channel_mean
from onnx_udfc.repair.repaired import LayerRepair, Repaired, RepairSettings, finer_note
from onnx_udfc.repair.splitting import both_of
from onnx_udfc.repair.together import Together
from onnx_udfc.runtime.machine import let_go
from onnx_udfc.runtime.walk import Value, Walk
from onnx_udfc.runtime.windows import run_layer, window_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from onnx_udfc.channels.prune import Pruned
    from onnx_udfc.model.layers import Layer
    from onnx_udfc.model.network import Network
    from onnx_udfc.numerics.factors import Split
    from onnx_udfc.numerics.grids import QuantParams
    from onnx_udfc.numerics.joint_refit import Shared
    from onnx_udfc.numerics.narrowing import Narrowing
    from onnx_udfc.numerics.rounding import Basis
    from onnx_udfc.repair.splitting import Factored

Double = NDArray[np.float64]

RIDGE_PRUNED = 0.01  # λ for a layer that lost input channels
UNSURE = 4  # times that, below which few samples and little to repair are not minded
RIDGE_FACTORED = 0.1  # for one that is split in two
RIDGE_DRIFTED = 0.1  # the least for one whose input only drifted
SMALL_DRIFT = 0.03  # relative error below which a layer is hardly moved
NARROWED, AN_UNKNOWN = 8192, 16  # positions, and of each unknown, that do for the fit of a layer in few directions
AHEAD = 1 << 20  # numbers of a Gram that is made ready for rounding while the weights are fitted, at most


def repair(
    pruned: Pruned,
    matched: Network,
    reference: Reference,
    bits: Mapping[str, float],
    settings: RepairSettings,
    advance: Callable[[str], None],
    factored: Mapping[str, Factored] | None = None,
    *,
    spend: bool = False,
) -> Repaired:
    """Refit and round every layer of a pruned network in place.

    Args:
        pruned: the network to repair and what was kept of each layer.
        matched: the reference's network, pruned in the same way.
        reference: the original's trace.
        bits: layer name → weight bits; a layer that is missing stays in float.
        settings: see there.
        advance: called with each layer's name when it is done.
        factored: what became of the layers that are two now in both networks, by the name of the first of the two.
        spend: nobody else needs the trace: its network goes, and what it holds of a layer as soon as that is done.
    """
    work = _Repair(pruned, matched, reference, bits, settings, factored or {})
    if spend:
        reference.network = matched  # and the weights that were traced go
        let_go()
    nodes = {node.name: node for node in matched.graph.nodes}
    for node in map(nodes.__getitem__, work.order):
        if node.name in matched.layers:
            work.layer(matched.layers[node.name])
            if spend:  # all that write what it reads were refitted before
                reference.layers.pop(node.name, None)
            advance(node.name)
        elif node.name in work.cells:
            work.cell(node)
        elif work.dirty & {t.name for t in node.inputs}:
            work.dirty |= {t.name for t in node.outputs}
    return work.result


class _Repair:
    """State of one pass over the compressed network."""

    def __init__(
        self,
        pruned: Pruned,
        matched: Network,
        reference: Reference,
        bits: Mapping[str, float],
        settings: RepairSettings,
        factored: Mapping[str, Factored],
    ) -> None:
        self.matched, self.factored = matched, factored
        self.widths = {name: layer.in_channels for name, layer in reference.network.layers.items()}
        self.seconds = {part.whole.name: part for part in factored.values()}
        self.pruned, self.reference, self.bits, self.settings = pruned, reference, bits, settings
        self.model = matched.to_model(without=matched.weights)
        self.outputs = {t.name for t in matched.graph.outputs}
        self.result = Repaired()
        self.walk = Walk(self.model, reference.inputs, list(matched.layers), pieces=reference.pieces, in_place=True)
        # What a layer that is two now needs of its input is what the whole of them needs.
        wholes = dict(matched.layers) | {
            name: part.whole for first, part in factored.items() for name in (first, part.whole.name)
        }
        self.together = Together(self.model, self.walk, pruned, reference, wholes, self.outputs, self._narrowing)
        self.dirty: set[str] = set()
        self.roots, self.ties = tied_layers(matched), dict[tuple[str, float | None], list[Tie]]()
        self.cells = cells_of(matched)
        self.order, self.beside = side_by_side(self.model, twins(pruned.network))

    def layer(self, layer: Layer) -> None:
        """Repair one layer, given in the matched domain; write the result to the network that is shipped."""
        if layer.name in self.factored:
            self._first(layer, self.factored[layer.name])
            return
        found = self.reference.layers.get(layer.name)
        source = layer.node.inputs[0].name
        if found is None or not self.walk.available(source):
            return
        x = self.walk.get(source)
        cut, drifted = self._lost_inputs(layer), source in self.dirty
        if not self._paired(found, x):
            y = self._unpaired(layer, found, x)
            self.dirty.add(layer.node.outputs[0].name)
        elif layer.name in self.settings.finer and layer.name in self.bits and not cut:
            y = self._finely(layer, found, x)
            self.dirty.add(layer.node.outputs[0].name)
        elif cut or drifted or layer.name in self.bits or self._harms(layer):
            y = self._improve(layer, found, x, cut, drifted)
            self.dirty.add(layer.node.outputs[0].name)
        else:
            y = run_layer(self.model, layer, x, layer.matrix(), own_bias(layer), self.walk.pieces)
            if len(self.pruned.kept_out.get(layer.name, ())) < len(found.gain):
                self.dirty.add(layer.node.outputs[0].name)
        self.walk.put(layer.name, y.astype(x.dtype, copy=False))

    def cell(self, node: gs.Node) -> None:
        """Round the weights of a recurrent layer of the matched network."""
        states = self.reference.states.get(node.name)
        source, codes = node.inputs[0].name, {}
        if states is not None and self.walk.available(source):
            codes = round_cell(node, states, self.walk, self.settings.unseen)
        self.result.unseen |= codes
        if codes or self.dirty & {t.name for t in node.inputs}:  # also by the states that it begins with
            self.dirty |= {t.name for t in node.outputs}

    def _paired(self, found: LayerReference, x: Value) -> bool:
        """Whether the sampled positions are the original's, and what was added to its output there is there now."""
        return len(x) == found.shape[0] and (found.addend is None or self.walk.available(found.addend))

    def _unpaired(self, layer: Layer, found: LayerReference, x: Value) -> Value:
        """A layer that gets more or fewer inputs than in the original, boxes say: no two of them belong together."""
        self.result.fallbacks[layer.name] = "not refitted: how much reaches it hangs on what is found before it"
        matrix, gain = layer.matrix(), self.together.kept(layer, found.gain).reshape(layer.groups, -1)
        target = self.pruned.network.layers[layer.name]
        if self._harms(layer):
            real = self._damaged(layer, _per_row(np.divide, matrix, gain), None)
            target.set(real, target.bias)
            matrix = _per_row(np.multiply, real, gain)
        if layer.name in self.bits:
            matrix = _per_row(np.multiply, self._coded(layer, _per_row(np.divide, matrix, gain), None), gain)
        return run_layer(self.model, layer, x, matrix, own_bias(layer), self.walk.pieces)

    def _finely(self, layer: Layer, found: LayerReference, x: Value) -> Value:
        """A layer before a logarithm: its weights in more bits; no bias, which would be heard where all is silent."""
        sight = self._begun(layer, found, x, self._patches(layer, found, x))[0]()
        gain = self.together.kept(layer, found.gain).reshape(layer.groups, -1)
        start = layer.matrix()
        matrix = _per_row(np.multiply, self._coded(layer, _per_row(np.divide, start, gain), None), gain)
        error = sight.error(start)
        self.result.layers[layer.name] = LayerRepair(error, error, sight.error(matrix))
        return run_layer(self.model, layer, x, matrix, own_bias(layer), self.walk.pieces)

    def _first(self, layer: Layer, part: Factored) -> None:
        """Give the first of two layers that stand for one its weights, and the second one those to start from."""
        found, source = self.reference.layers.get(part.whole.name), layer.node.inputs[0].name
        x = self.walk.get(source) if found is not None and self.walk.available(source) else None
        split, rank = part.factor.split, part.factor.rank
        if found is not None and x is not None and self._paired(found, x):
            metric = found.metric.among(self.together.kept(part.whole, np.arange(len(found.gain))))
            narrow, seen = self._narrowing(part.whole.name), None
            found = found if narrow is None else found.thinned(max(NARROWED, AN_UNKNOWN * narrow.unknowns))
            p = self._patches(part.whole, found, x)
            if narrow is not None:
                seen = middle_covariance(p[0], split) if self._harms(layer) or layer.name in self.bits else None
                p = narrow.of(p[0])[None]
            sight = self._begun(part.whole, found, x, p)[0]()
            del p
            first, second, gram = both_of(part, sight, metric, narrow, RIDGE_FACTORED)
            seen = first_gram(gram, split) if narrow is None else seen
            first, second = self._evened(layer, first, second, split)
            self._start_second(part, metric.unscaled(second[None]))
        else:  # by the weights alone
            weight = part.whole.matrix()
            gram = np.eye(weight.shape[2])
            first, second = self._evened(layer, *factors(weight[0], gram, split, rank, 0), split)
            self._start_second(part, second[None])
            seen = first_gram(gram, split)
        target, known = self.pruned.network.layers[layer.name], None if seen is None else seen[None]
        matrix = self._damaged(layer, first[None], known)
        if layer.name in self.bits:
            matrix = self._coded(layer, matrix, known)
        else:
            target.constant.values = target.layout(matrix).astype(target.constant.dtype)
        self.dirty.add(layer.node.outputs[0].name)
        if x is not None:
            y = run_layer(self.model, layer, x, matrix, np.zeros(layer.out_channels), self.walk.pieces)
            self.walk.put(layer.name, y.astype(x.dtype, copy=False))

    def _narrowing(self, name: str) -> Narrowing | None:
        """The directions that the whole of a layer, by its name, is looked at in where it becomes two."""
        part = self.seconds.get(name)
        return None if part is None else part.narrowing(self.reference.curves, self.pruned.kept_in)

    def _evened(self, layer: Layer, first: Double, second: Double, split: Split) -> tuple[Double, Double]:
        """Weights of two layers as they are rounded best, where the first of them is rounded."""
        return evened(first, second, split) if layer.name in self.bits else (first, second)

    def _start_second(self, part: Factored, weight: Double) -> None:
        """Give the second of two layers weights (1, o, d) of the matched domain, in both networks."""
        name = part.whole.name
        after, target, found = (
            self.matched.layers[name],
            self.pruned.network.layers[name],
            self.reference.layers.get(name),
        )
        after.set(weight, after.bias)
        gain = np.ones(len(weight[0])) if found is None else self.together.kept(part.whole, found.gain)
        target.set(_per_row(np.divide, weight, gain[None]), target.bias)

    def _harms(self, layer: Layer) -> bool:
        return self.settings.damage is not None and layer.name not in self.settings.spared

    def _damaged(self, layer: Layer, weight: Double, gram: Double | None) -> Double:
        """The layer's weights (g, o, d) after the damage that was asked for."""
        harm = self.settings.damage
        return harm(weight, gram) if harm is not None and self._harms(layer) else weight

    def _rounded(self, layer: Layer, matrix: Double, gram: Double | None, basis: Basis | None = None) -> QuantParams:
        """The layer's weights (g, o, d) in its bits, with the Gram (g, d, d) where it is of use, and its basis."""
        seen = None if self._harms(layer) else gram  # what was taken away must not come back
        if layer.name in self.settings.finer:
            params, reason = quantize_finely(matrix, self.bits[layer.name], layer.constant.dtype), ""
            self.result.fallbacks[layer.name] = finer_note(params)
        else:
            params, reason = quantize_layer(matrix, seen, self.bits[layer.name], layer.constant.dtype, basis)
        if reason:
            self.result.fallbacks[layer.name] = f"rounded to nearest: {reason}"
        self.result.weights[layer.name] = params
        return params

    def _coded(self, layer: Layer, matrix: Double, gram: Double | None) -> Double:
        """Give the network that is shipped the layer's weights (g, o, d) in its bits; what they stand for."""
        params, target = self._rounded(layer, matrix, gram), self.pruned.network.layers[layer.name]
        target.constant.values = Coded(target, params)
        return params.dequantize()

    def _lost_inputs(self, layer: Layer) -> bool:
        if layer.name in self.seconds:
            return True
        one_each = layer.groups > 1 and layer.groups == layer.in_channels
        return layer.in_channels < self.widths[layer.name] and not one_each

    def _improve(self, layer: Layer, found: LayerReference, x: Value, cut: bool, drifted: bool) -> Value:
        """Give the layer new weights and bias; its output in the matched domain."""
        begun, mean = self._begun(layer, found, x, self._patches(layer, found, x))
        gain = self.together.kept(layer, found.gain).reshape(layer.groups, -1)
        tie = self._tie(layer, gain)
        decided = tie is not None and tie.done is not None
        others = [] if decided or tie is None else self._alike(layer, tie, gain)
        shared = None if decided or others or not (cut or drifted) else self._shared(layer, found, x)
        sight = as_one([begun(), *others]) if others else begun()
        if sight.overflown:
            self.result.fallbacks[layer.name] = f"not refitted: its input or output {TOO_LARGE}"
        if tie is not None and tie.done is not None:
            real, params = tie.done
            matrix = _per_row(np.multiply, real, gain)
            found_errors = self._errors(sight, layer.matrix(), matrix)
        else:
            gram = None if sight.measured is None else sight.measured.gram
            soon = gram is not None and layer.name in self.bits and gram.size <= AHEAD
            basis = beside(partial(basis_of, gram)) if gram is not None and soon else None
            matrix, found_errors = self._refitted(layer, cut, drifted, sight, mean, shared)
            real, params = _per_row(np.divide, matrix, gain), None
            if self._harms(layer):
                real = self._damaged(layer, real, gram)
                matrix = _per_row(np.multiply, real, gain)
            if layer.name in self.bits:
                params = self._rounded(layer, real, gram, basis)
                del matrix, real  # of a large layer each is larger than most networks
                real = params.dequantize()
                matrix = _per_row(np.multiply, real, gain)
        if tie is not None:
            tie.done = (real, params)
            self.result.weights.update({layer.name: params} if params is not None else {})
        errors, wanted = LayerRepair(*found_errors(), sight.error(matrix)), mean + sight.moved.reshape(-1)
        self.result.layers[layer.name] = errors
        del begun, sight, others, shared, found_errors  # what the layer sees goes before its output comes
        y = run_layer(self.model, layer, x, matrix, np.zeros(layer.out_channels), self.walk.pieces)
        response = channel_mean(y, layer)
        shipped = wanted - response / gain.reshape(-1) + errors.explained * self.together.kept(layer, found.drift)
        target = self.pruned.network.layers[layer.name]
        bias = shipped + (target.bias if layer.bias_apart else 0.0)
        if params is None:
            target.set(real, bias)
        else:
            target.constant.values = Coded(target, params)
            target.set_bias(bias)
        y += (wanted - response).astype(y.dtype).reshape((-1,) + (1,) * (y.ndim - 2 if layer.kernel else 0))
        return y

    def _tie(self, layer: Layer, gain: Double) -> Tie | None:
        """What the layer shares with others that read the same weight, if it is still the same; None where nothing."""
        root = self.roots.get(layer.name)
        if root is None:
            return None
        start = _per_row(np.divide, layer.matrix(), gain)
        ties = self.ties.setdefault((root, self.bits.get(layer.name)), [])
        found = next((tie for tie in ties if np.array_equal(tie.start, start)), None)
        if found is None:
            found = Tie(start)
            ties.append(found)
        return found

    def _alike(self, layer: Layer, tie: Tie, gain: Double) -> list[Sight]:
        """What the layers see that share a layer's weight as it is now and can be fitted now."""
        found = []
        for other in map(self.matched.layers.__getitem__, self.beside.get(layer.name, ())):
            seen, source = self.reference.layers.get(other.name), other.node.inputs[0].name
            if (
                seen is None
                or self.bits.get(other.name) != self.bits.get(layer.name)
                or not self.walk.available(source)
            ):
                continue
            x, same = self.walk.get(source), self.together.kept(other, seen.gain).reshape(other.groups, -1)
            if np.array_equal(same, gain) and self._tie(other, gain) is tie and self._paired(seen, x):
                found.append(self._begun(other, seen, x, self._patches(other, seen, x))[0]())
        return found

    def _refitted(
        self, layer: Layer, cut: bool, drifted: bool, sight: Sight, mean: Double, shared: Shared | None
    ) -> tuple[Double, Callable[[], tuple[float, float]]]:
        """Weights (g, o, d) before they are rounded, and what waits for errors: of those before the refit, of these."""
        start = layer.matrix()
        if not (cut or (drifted and sight.determined)):
            error = sight.error(start)
            return start, lambda: (error, error)
        ridge = self._ridge(layer, sight, start, cut=cut)
        refitted = sight.fit(start, ridge, through=shared is None, solve=self.settings.solve)
        if shared is not None and sight.factor is not None:
            weight, level = refit_together(shared, refitted[0], mean, sight.factor)
            refitted, sight.moved = weight[None], (level - mean)[None]
        return refitted, self._errors(sight, start, refitted)

    def _ridge(self, layer: Layer, sight: Sight, start: Double, *, cut: bool) -> float:
        """λ of a fit: the less there is to repair, the nearer a layer stays to its original weights.

        One that lost inputs stays as near where its samples are few for its unknowns and tell so themselves.
        """
        if layer.name in self.seconds:
            return RIDGE_FACTORED
        _, positions, unknowns = sight.patches.shape
        few = min(1, unknowns / positions)
        if cut and (few <= UNSURE * RIDGE_PRUNED or sight.overflown or self.settings.solve is not None):
            return RIDGE_PRUNED
        little = SMALL_DRIFT / max(sight.error(start), 1e-9)
        if not cut:
            return min(10 * RIDGE_DRIFTED, max(RIDGE_DRIFTED, little))
        nearer = few * min(1, little)
        return sight.preferred(start, (RIDGE_PRUNED, nearer)) if nearer > UNSURE * RIDGE_PRUNED else RIDGE_PRUNED

    @staticmethod
    def _errors(sight: Sight, first: Double, second: Double) -> Callable[[], tuple[float, float]]:
        """Begin to find the errors of two weights (g, o, d), beside what goes on where that takes little memory."""
        held = max(first.size, sight.patches.size if sight.measured is None else 0)
        return beside(lambda: (sight.error(first), sight.error(second)), held)

    def _shared(self, layer: Layer, found: LayerReference, x: Value) -> Shared | None:
        """What a layer that lost outputs, or rank, sees with its readers; None where they are not refitted together."""
        shape = (found.shape[0], layer.out_channels, *found.shape[2:])
        lost = layer.out_channels < len(found.gain) or layer.name in self.seconds
        return self.together.shared(layer, x, shape) if lost and found.alone else None

    def _patches(self, layer: Layer, found: LayerReference, x: Value) -> Array:
        """(g, n, d) what the layer sees of its input x."""
        shape = self._shape(layer, found)
        return patches(x.astype(np.float32, copy=False), window_of(layer, x.shape, shape), shape, found.positions)

    def _shape(self, layer: Layer, found: LayerReference) -> tuple[int, ...]:
        """Of the layer's output, with the channels that are left."""
        channels = len(self.together.kept(layer, found.gain))
        return (found.shape[0], channels, *found.shape[2:]) if layer.kernel else (*found.shape[:-1], channels)

    def _begun(self, layer: Layer, found: LayerReference, x: Value, p: Array) -> tuple[Callable[[], Sight], Double]:
        """What waits for a layer's sight, measured beside what goes on, and the mean (O,) that its output should have.

        The patches p (g, n, d) are those of its input x, or made of them; the mean is over all positions.
        """
        t, mean = self.together.kept(layer, found.target), self.together.kept(layer, found.mean)
        window, stream = window_of(layer, x.shape, self._shape(layer, found)), None
        if found.addend is not None:
            value = self.walk.get(found.addend).astype(np.float32, copy=False)
            now = sample_targets(value, window, found.positions)
            t = t - now
            mean = mean + self.together.kept(layer, found.stream_mean) - channel_mean(value, layer)
            stream = _by_group(now, layer.groups)
        # What is added before the activation must be known, or nobody knows what passes it.
        bounds = bounds_after(layer, self.outputs) if stream is not None or found.alone else None
        return beside(lambda: Sight(p, _by_group(t, layer.groups), bounds, stream), p.size), mean


def _per_row(operation: np.ufunc, weight: Double, gain: Double) -> Double:
    """Weights (g, o, d) times or over the gains (g, o) of their rows; no copy where every gain is 1."""
    return np.asarray(operation(weight, gain[:, :, None])) if (gain != 1).any() else weight


def _by_group(values: Array, groups: int) -> Array:
    """(n, O) → (g, n, o)."""
    return np.ascontiguousarray(values.reshape(len(values), groups, -1).transpose(1, 0, 2))
