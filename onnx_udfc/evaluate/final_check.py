"""The last look at a result, before anything is written: valid, loadable, finite, how near it is to the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_udfc.errors import CheckError, ModelError, RequestError, one_line
from onnx_udfc.evaluate.comparison import MANY, fidelity, worst
from onnx_udfc.evaluate.report import Checked
from onnx_udfc.evaluate.side_by_side import gather, open_real
from onnx_udfc.evaluate.speed import LOOKS, SHORTEST, slower_by, timed
from onnx_udfc.inputs.choice import affordable
from onnx_udfc.inputs.feeds import evenly_spaced, take
from onnx_udfc.inputs.how_many import FEWEST_JUDGED, MOST_JUDGED, OTHER_IMAGES, judged_count
from onnx_udfc.inputs.image_files import asked_preprocessing
from onnx_udfc.inputs.kinds import one_feed
from onnx_udfc.inputs.network_inputs import BATCH, NetworkInputs, batch_of, elsewhere, make_inputs, settle_sizes
from onnx_udfc.inputs.rollout import Stepping
from onnx_udfc.inputs.sizes import input_specs_of, wanted_inputs
from onnx_udfc.model.export import SHAPES
from onnx_udfc.model.protos import skeleton
from onnx_udfc.model.saving import ROOMY, weight_bytes
from onnx_udfc.options import Options
from onnx_udfc.options.words import TIMED
from onnx_udfc.runtime.machine import release
from onnx_udfc.runtime.providers import asked_provider
from onnx_udfc.runtime.runs import input_specs, outputs_of, split
from onnx_udfc.runtime.sessions import Source, open_session

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

FEWEST_ELSEWHERE = 4  # of those that are made what else they may be, of a network that takes long to run
HEAVY = 1 << 28  # bytes of weights above which two networks are not in memory together
UNPACKED = 1 << 28  # above which codes are not unpacked once for all: 60 MB of VGG-19's take 2 GB on the way
LARGE = 1 << 26  # bytes of outputs above which they are not kept, but for a heavy network


@dataclass(frozen=True)
class Answered:
    """What the original answers to the inputs of a check.

    Attributes:
        first: the answers to the feeds, or the session that gives them; None where there are none.
        feeds: of a run each.
        inputs: that they were cut from; None where there are none.
        rollout: how inputs follow one another, where they do.
        fault: why there are no answers.
        loads: onnxruntime loads the original.
        others: to what else the inputs may be, where nothing tells what they are.
    """

    first: Any = None
    feeds: list[Any] = field(default_factory=list)
    inputs: NetworkInputs | None = None
    rollout: Any = None
    fault: str = ""
    loads: bool = True
    others: tuple[Answered, ...] = ()


def check_result(
    original: Source,
    network: Network,
    model: onnx.ModelProto,
    options: Options,
    batch: int = BATCH,
    answered: Callable[[], Answered] | None = None,
) -> Checked:
    """Check a written model against the original, and time it where speed was asked for; see `_checked`.

    `answered` gives what `answer` finds, where that was begun before.
    """
    found = _checked(original, network, model, options, batch, answered)
    if not asks_for_speed(options) or found.fidelity is None or weight_bytes(network.origin.model) >= HEAVY:
        return found
    feed, provider = one_feed(wanted_inputs(network), options.seed, batch=options.batch), asked_provider(options)
    try:
        return replace(found, slower_by=slower_by(original, model, feed, options.threads or 1, provider))
    except ModelError:  # one that does not run on this input is another check's business
        return found


def share_of_time(source: Source, network: Network, model: Source, options: Options) -> float | None:
    """The time of a result on this machine as a share of the original's; None where it cannot be taken."""
    feed, provider = one_feed(wanted_inputs(network), options.seed, batch=options.batch), asked_provider(options)
    try:
        found = timed(source, model, feed, options.threads or 1, LOOKS[0], provider)
    except ModelError:
        return None
    return found.ratio if found.original_ms >= SHORTEST else None


def asks_for_speed(options: Options) -> bool:
    """Whether time on this machine is what was asked for: its processor's, or that of the provider that runs it."""
    if options.provider != "cpu":
        return "latency" in options.budget
    return options.target in TIMED and (options.activations is not None or "latency" in options.budget)


def _checked(
    original: Source,
    network: Network,
    model: onnx.ModelProto,
    options: Options,
    batch: int,
    answered: Callable[[], Answered] | None,
) -> Checked:
    """Check a written model against the original.

    The inputs are made by the same options, with another seed, or are those of --validate; `answered` gives the
    original's answers, None where they are to be found now.
    """
    _valid(original, model)
    if options.validate is not None:
        return _on_real_inputs(original, network, model, options)
    found = answer(original, network, options, batch) if answered is None else answered()
    if not found.loads:
        return Checked(None, (found.fault,))
    lean = weight_bytes(network.origin.model) >= UNPACKED
    try:
        # Integer kernels, which may saturate, come with the optimizations that a lean session leaves out.
        second = open_session(
            model, asked_provider(options), options.threads, lean=lean and options.activations is None
        )
    except ModelError as error:
        raise CheckError(f"the compressed network does not load, so nothing was written: {error}") from error
    if found.first is None or found.inputs is None:
        return Checked(None, (found.fault,))
    checked = _compared(found.first, second, found, options)
    if checked.fidelity is None:
        return checked
    lenient = replace(options, force=True)  # what overflows there is no certain fault
    others = [_compared(other.first, second, other, lenient).fidelity for other in found.others]
    return replace(checked, elsewhere=tuple(other for other in others if other is not None))


def answer(original: Source, network: Network, options: Options, batch: int = BATCH) -> Answered:
    """What the original answers to the inputs that a result is checked on; arguments as of `_checked`."""
    weights, batch = weight_bytes(network.origin.model), network.together or batch
    try:
        session: Any = open_session(original, asked_provider(options), options.threads, lean=weights >= ROOMY)
    except ModelError as error:
        return Answered(fault=f"not run for its check: {error}", loads=False)
    try:
        inputs = _other_inputs(network, options)
        found = _answered(session, inputs, batch, weights)
    except (RequestError, ModelError) as error:
        return Answered(fault=f"not run for its check: {error}")
    others = []
    for other in elsewhere(network, inputs, options):
        half = max(FEWEST_JUDGED, batch_of(network, other.values) // 2)
        few = other if other.rollout else _few(network, other, min(half, max(FEWEST_ELSEWHERE, affordable(network))))
        with suppress(ModelError):  # numbers that it does not take are none that it reads
            others.append(_answered(session, few, batch, weights))
    return replace(found, others=tuple(others))


def _answered(session: Any, inputs: NetworkInputs, batch: int, weights: int) -> Answered:
    """What a session of the original answers to inputs."""
    rollout = inputs.rollout if inputs.rollout and inputs.rollout.batch <= batch else None
    feeds = list(split(input_specs(session), inputs.values, rollout.batch if rollout else batch))
    if not feeds:
        raise ModelError("there are fewer inputs than its batch holds")
    given = _run(session, [output.name for output in session.get_outputs()], feeds[0])
    elements = sum(value.size for value in given if isinstance(value, np.ndarray))
    singly = rollout is None and elements > MANY
    feeds = list(split(input_specs(session), inputs.values, 1)) if singly else feeds
    first = _answers(session, feeds, np.inf if weights >= HEAVY else LARGE, None if singly else given)
    return Answered(first, feeds, inputs, rollout)


def _on_real_inputs(original: Source, network: Network, model: onnx.ModelProto, options: Options) -> Checked:
    """The check on inputs that the user keeps for the judgement, and accuracy where they have labels."""
    first = open_session(original, asked_provider(options), options.threads)
    try:
        second = open_session(model, asked_provider(options), options.threads)
    except ModelError as error:
        raise CheckError(f"the compressed network does not load, so nothing was written: {error}") from error
    if not network.sizes:
        settle_sizes(network, options)
    real = open_real(wanted_inputs(network), options.validate, asked_preprocessing(options))
    found = gather((first, second), real.runs, options.task, real.labels, real.names, lenient=options.force)
    return Checked(worst(found.comparator, "validation", found.count), accuracy=found.accuracy())


def _answers(session: Any, feeds: list[Any], most: float, given: list[Any] | None) -> _Original | _Remembered:
    """The outputs for all feeds, so that no feed is run twice; the session itself where they take more bytes than that.

    `most` are bytes; `given` the outputs for the first of the feeds, where they are known.
    """
    names = [output.name for output in session.get_outputs()]
    release()
    first = _run(session, names, feeds[0]) if given is None else given
    if sum(value.nbytes for value in first if isinstance(value, np.ndarray)) * len(feeds) > most:
        return _Original(session)
    later = (_own(_run(session, names, feed)) for feed in _releasing(feeds[1:]))
    return _Remembered(session, [_own(first), *later])


def _releasing(feeds: Iterable[Any]) -> Iterator[Any]:
    """The feeds; before each, what the run before has freed goes back to the system."""
    for feed in feeds:
        release()
        yield feed


def _own(outputs: list[Any]) -> list[Any]:
    """Copies of outputs: an array of onnxruntime keeps the memory that the session has ever taken."""
    return [value.copy() if isinstance(value, np.ndarray) else value for value in outputs]


class _Remembered:
    """The outputs of a network that need not be in memory together with the one it is compared with."""

    def __init__(self, session: Any, runs: list[list[Any]]) -> None:
        """Take what a session gave for each of the feeds, and of the session names and shapes alone."""
        self._left = runs
        declared = (session.get_inputs(), session.get_outputs())
        self._inputs, self._outputs = ([SimpleNamespace(name=v.name, shape=v.shape) for v in vs] for vs in declared)

    def get_outputs(self) -> list[SimpleNamespace]:
        """The outputs' names and shapes, as a session has them."""
        return self._outputs

    def get_inputs(self) -> list[SimpleNamespace]:
        """The inputs' names and shapes, as a session has them."""
        return self._inputs

    def run(self, names: list[str], _feed: Any) -> list[Any]:
        """The outputs for the next of the feeds."""
        found = dict(zip((output.name for output in self._outputs), self._left.pop(0), strict=True))
        return [found[name] for name in names]


class _Original:
    """A session of the original: where it fails, that is not the result's fault."""

    def __init__(self, session: Any) -> None:
        """Stand for a session that has run once."""
        self._session = session
        self.get_outputs, self.get_inputs = session.get_outputs, session.get_inputs

    def run(self, names: list[str], feed: Any) -> list[Any]:
        """The outputs.

        Raises:
            ModelError: it does not run.
        """
        return _run(self._session, names, feed)


def _run(session: Any, names: list[str], feed: Any) -> list[Any]:
    return outputs_of(session, names, feed, "the original fails on made-up inputs (WHY)")


def _compared(first: Any, session: Any, answered: Answered, options: Options) -> Checked:
    """How near a session of the result comes to what the original answers."""
    assert answered.inputs is not None
    second = Stepping(session, answered.rollout) if answered.rollout else session
    try:
        states = second.states if isinstance(second, Stepping) else ()
        source, feeds = answered.inputs.source, _releasing(answered.feeds)
        found = fidelity(first, second, feeds, source, options.task, options.force, states)
        return Checked(replace(found, held_out=answered.inputs.held_out))
    except ModelError as error:
        return Checked(None, (f"not run for its check: {error}",))
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(f"the compressed network does not run, so nothing was written: {one_line(error)}") from error


def _other_inputs(network: Network, options: Options) -> NetworkInputs:
    count = min(options.number or judged_count(network, wanted_inputs(network)), MOST_JUDGED)
    asked = options if options.calibrate else options.counted(count)  # the split depends on the real number
    return _few(network, make_inputs(network, asked, OTHER_IMAGES), options.number or MOST_JUDGED)


def _few(network: Network, inputs: NetworkInputs, count: int = MOST_JUDGED) -> NetworkInputs:
    """At most so many of them, and at most MOST_JUDGED, but whole batches where they are fixed."""
    specs = input_specs_of(network)
    batch, given = max([1, *(spec.batch or 1 for spec in specs)]), batch_of(network, inputs.values)
    most = max(min(count, MOST_JUDGED, given) // batch, 1) * batch
    chosen = evenly_spaced(given, most)
    rollout = inputs.rollout if len(chosen) == given else None  # what is left out of a sequence breaks it
    return replace(inputs, values=take(specs, inputs.values, chosen), rollout=rollout)


def _valid(original: Source, model: onnx.ModelProto) -> None:
    """Refuse an invalid result; but what the original already fails is not the result's fault."""
    try:
        onnx.checker.check_model(model if weight_bytes(model) < ROOMY else skeleton(model, SHAPES))
    except Exception as error:  # checker.ValidationError, or a plain error of its C++ core
        if not _fails(original):
            raise CheckError(f"the result is not a valid model, so nothing was written: {one_line(error)}") from error


def _fails(original: Source) -> bool:
    try:
        onnx.checker.check_model(str(original) if isinstance(original, Path) else original)
    except Exception:  # as above
        return True
    return False
