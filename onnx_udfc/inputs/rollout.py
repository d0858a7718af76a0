"""Runs of a network that carries states along: sequences of steps, each with the states that the step before gave.

Random states tell little of what such a network is run on. So the original is run over sequences from states of zeros,
and the states that it went through are the values of its state inputs. Sounds go on from step to step; other inputs are
drawn for each step.

Steps are runs: run r is step r % steps of the sequences r // steps, each run has one sample of every sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.kinds import Scale, Wanted, made
from onnx_udfc.runtime.runs import InputSpec, cut, outputs_of
from onnx_udfc.runtime.sessions import session_of

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

STEPS = 16  # of a sequence

Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Rollout:
    """How samples follow one another.

    `outputs` is input name → the output that is fed back to it. A sequence has `steps` runs, each of `batch` samples,
    one of each sequence.
    """

    outputs: Mapping[str, str]
    steps: int
    batch: int

    def samples(self) -> int:
        """Of all steps of as many sequences as are run side by side."""
        return self.steps * self.batch


def rollout_of(wanted: Sequence[Wanted], count: int) -> Rollout | None:
    """How `count` samples are cut into sequences; None where nothing is carried along or they are too few."""
    outputs = {w.spec.name: w.use.carried for w in wanted if w.use.carried}
    if not outputs:
        return None
    fixed = max((w.spec.batch or 0 for w in wanted), default=0)
    steps = min(STEPS, count // max(1, fixed))
    return Rollout(outputs, steps, fixed or count // steps) if steps > 1 else None


def rolled_over(network: Network, wanted: Sequence[Wanted], values: Feed, rollout: Rollout) -> Feed | None:
    """Given values with the states that the original goes through over them; None where it does not run."""
    session = session_of(network, spin=True)
    return None if session is None else with_states(session, tuple(w.spec for w in wanted), values, rollout)


def with_states(session: Any, specs: Sequence[InputSpec], values: Feed, rollout: Rollout) -> Feed | None:
    """Values with the states that a session goes through, run after run.

    None where it fails on them, or a next state does not have the shape of a state.
    """
    names, runs = list(rollout.outputs.values()), cut(specs, values, rollout.batch)
    zeros = {name: np.zeros_like(runs.feeds[0][name]) for name in rollout.outputs}
    states, taken = zeros, []
    for number, feed in enumerate(runs.feeds):
        states = states if number % rollout.steps else zeros
        taken.append(states)
        try:
            given = outputs_of(session, names, feed | states)
        except ModelError:
            return None
        states = {name: np.asarray(state) for name, state in zip(rollout.outputs, given, strict=True)}
        if any(states[name].shape != zero.shape for name, zero in zeros.items()):
            return None
    by_name = {s.name: s for s in specs}
    joined = {name: _joined(by_name[name], [t[name] for t in taken]) for name in rollout.outputs}
    return values | joined


def _joined(spec: InputSpec, runs: list[NDArray[Any]]) -> NDArray[Any]:
    """One run's values after another's, along the samples' axis, or a new first one where it has none."""
    return np.stack(runs) if spec.by_run else np.concatenate(runs, axis=spec.axis or 0)


def steps(wanted: Sequence[Wanted], rollout: Rollout, count: int, seed: int, scales: Mapping[str, Scale]) -> Feed:
    """Values as `made` gives them for all steps of whole sequences, one at least, run after run, the states zero."""
    groups = max(1, count // rollout.samples())
    sounds = [w for w in wanted if w.kind == "signal" and not w.spec.by_run]
    values = made(tuple(w for w in wanted if w not in sounds), groups * rollout.samples(), seed, scales)
    for i, w in enumerate(sounds):
        longer = replace(w, shape=tuple(d * rollout.steps if d == max(w.shape) else d for d in w.shape))
        drawn = made((longer,), groups * rollout.batch, seed + i, scales)[w.spec.name]
        axis = int(np.argmax(longer.shape))
        parts = np.stack(np.split(drawn, rollout.steps, axis))  # (steps, sequences, ...)
        sequences = parts.reshape(rollout.steps, groups, rollout.batch, *parts.shape[2:])
        values[w.spec.name] = sequences.swapaxes(0, 1).reshape(-1, *parts.shape[2:])
    return values


class Stepping:
    """A session that goes through the steps of a rollout with its own states, not with those that it is fed.

    What is wrong with one step is carried into the next, as it is where the network is used.
    """

    def __init__(self, session: Any, rollout: Rollout) -> None:
        """Stand for a session that will be run on the rollout's feeds in their order."""
        self._session, self._rollout, self._number = session, rollout, 0
        self._states: Feed = {}
        self.get_outputs, self.get_inputs = session.get_outputs, session.get_inputs
        self.states = tuple(rollout.outputs.values())

    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The outputs of the next step; the first of a sequence takes the states that it is fed."""
        own = self._states if self._number % self._rollout.steps else {}
        self._number += 1
        outputs = self._rollout.outputs
        given = self._session.run([*names, *outputs.values()], dict(feed) | own)
        self._states = {name: np.asarray(state) for name, state in zip(outputs, given[len(names) :], strict=True)}
        return list(given[: len(names)])
