"""Which kinds of made-up inputs a network is run on: those to which it reacts.

A few inputs of every kind that fits an input are run through the original, and its answers rate the kinds and the
mixtures of two of them (see `reaction`). Photographs are what networks on pictures mostly see, so another kind must be
clearly better; a second kind must add something. Lines of other scripts are added to those of text where more different
symbols are read in them: what only few lines show looks free to remove. Where the answers cannot be rated, photographs
are taken, sounds of all kinds, contents of files for bytes. Half of the photographs give way to formulas where batch
norm is still in the file, whose statistics are matched to the training's so that variety is what counts, and where so
many inputs are made that a photograph would come more than once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_udfc.channels.shapes import resolve
from onnx_udfc.errors import ModelError
from onnx_udfc.inputs.kinds import Scale, Wanted, made
from onnx_udfc.inputs.photographs import stored
from onnx_udfc.inputs.reaction import Answers, Symbols, information, mixed, ratings, read_maps, read_steps, symbols
from onnx_udfc.inputs.sources import FORMULA, GROUPS, SCRIPTS, SIGNALS, fitting_codes, fitting_pictures
from onnx_udfc.inputs.text import is_line
from onnx_udfc.model.counts import work
from onnx_udfc.runtime.runs import InputSpec, asked_at_once, cut, outputs_of, samples_first
from onnx_udfc.runtime.sessions import session_of

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

PROBE, LEAST = 16, 4  # inputs of each kind; below, nothing is rated
PROBE_MACS = 60e9  # of all runs: a few seconds
MOST_ELEMENTS = 1 << 20  # of an output for one input that are looked at
PREFERRED = 1.5  # as many times as much must another kind move the network than photographs do
ADDS = 1.1  # and a mixture of two kinds as many times as much as the one
SECOND = ("turned text",)  # kinds that are only taken beside another one
_SEED = 7
_BATCH = 4


@dataclass(frozen=True)
class Choice:
    """What was taken for one input.

    Kinds are of pictures, sounds or codes, in equal parts. `reaction` is kind, or kinds of a mixture → how much the
    network reacts to it, 1 the most; empty where that was not measured.
    """

    name: str
    kinds: tuple[str, ...]
    reaction: Mapping[str, float]


def fitting(wanted: Wanted, asked: str) -> tuple[str, ...]:
    """Kinds that an input can be, of those that are asked for (auto, or one of GROUPS), the preferred one first.

    Where none of those asked for fits, all that fit are meant. Empty where an input is not one of several kinds.
    """
    if wanted.kind in ("picture", "bytes"):
        found = fitting_pictures(wanted.channels, wanted.size)
    elif wanted.kind == "signal":
        found = tuple(SIGNALS)
    elif wanted.codes and len(wanted.sample) == 1:
        found = fitting_codes(wanted.codes)
    else:
        return ()
    return tuple(k for k in found if asked == "auto" or k in GROUPS[asked]) or found


def choose(
    network: Network,
    wanted: Sequence[Wanted],
    asked: str,
    scales: Mapping[str, Scale],
    threads: int | None,
    count: int = 0,
) -> tuple[Choice, ...]:
    """The kinds for every input that can be of several; only the largest of them is tried out.

    `asked` is auto, or one of GROUPS; `count` how many inputs a network of this size is usually run on.
    """
    choices = _choices(network, wanted, asked, scales, threads)
    return tuple(_varied(c, wanted, asked) if network.has_batch_norms or _repeats(c, count) else c for c in choices)


def _repeats(chosen: Choice, count: int) -> bool:
    """Whether so many inputs show some photograph more than once."""
    return chosen.kinds == ("photographs",) and count > len(stored())


def _choices(
    network: Network, wanted: Sequence[Wanted], asked: str, scales: Mapping[str, Scale], threads: int | None
) -> tuple[Choice, ...]:
    choices = [Choice(w.spec.name, _default(fitting(w, asked)), {}) for w in wanted if fitting(w, asked)]
    several = [w for w in wanted if len(fitting(w, asked)) > 1]
    if not several:
        return tuple(choices)
    main = max(several, key=lambda w: int(np.prod(w.sample)))
    kinds = fitting(main, asked)
    shown = partial(_answers, network, wanted, main, scales=scales, threads=threads)
    answers = shown(kinds=[kind for kind in kinds if kind not in SCRIPTS])
    if not answers:
        return tuple(choices)
    chosen, reaction = best(answers)
    if chosen == ("text",):
        chosen += read_scripts(answers["text"], shown(kinds=[kind for kind in kinds if kind in SCRIPTS]))
    return tuple(Choice(main.spec.name, chosen, reaction) if c.name == main.spec.name else c for c in choices)


def read_scripts(text: Answers, others: Mapping[str, Answers]) -> tuple[str, ...]:
    """Kinds of lines in other scripts that a network reads as surely as lines of text, and more of their symbols.

    `text` and `others`, by kind, are its answers; as many lines of each are compared. A reader of one script takes
    characters of another one for those that it knows, and is less sure of them.
    """
    number = min((len(output) for answers in others.values() for output in answers), default=0)
    latin, found = _symbols(text, number), {kind: _symbols(answers, number) for kind, answers in others.items()}
    return tuple(k for k, s in found.items() if s.different > latin.different and s.sureness > latin.sureness)


def _symbols(answers: Answers, number: int) -> Symbols:
    """What a network reads in the first lines."""
    return max((symbols(output[:number]) for output in answers), default=Symbols())


def strength(
    network: Network, wanted: Sequence[Wanted], asked: str, scales: Mapping[str, Scale], threads: int | None
) -> float:
    """How much a network whose outputs are all scores of classes reacts to the best of kinds and mixtures, in nats.

    0 where that was not measured, or where an output is anything else.
    """
    main = max(wanted, key=lambda w: int(np.prod(w.sample)))
    kinds = [kind for kind in fitting(main, asked) if kind not in SCRIPTS]
    answers = _answers(network, wanted, main, kinds, scales, threads)
    if any(output.ndim != 2 for outputs in answers.values() for output in outputs):
        return 0.0
    sets = [*answers.values(), *(mixed(a, b) for a, b in combinations(answers.values(), 2))]
    return max((sum(information(output) or 0.0 for output in outputs) for outputs in sets), default=0.0)


def best(answers: Mapping[str, Answers]) -> tuple[tuple[str, ...], dict[str, float]]:
    """The kind or the mixture of two kinds to which a network reacts most, and all ratings.

    `answers` is kind → the network's answers to inputs of it, in the order of preference.
    """
    pairs = {f"{a} + {b}": (a, b) for a, b in combinations(answers, 2)}
    rated = ratings({**answers, **{name: mixed(answers[a], answers[b]) for name, (a, b) in pairs.items()}})
    if not rated:
        return _default(tuple(answers)), {}
    alone = [k for k in answers if k not in SECOND] or list(answers)
    favoured = {k: rated[k] * (PREFERRED if k == "photographs" else 1) for k in alone}
    one = max(favoured, key=lambda k: favoured[k])
    if pairs:
        two = max(pairs, key=lambda p: rated[p])
        if rated[two] > ADDS * favoured[one]:
            return pairs[two], rated
    return (one,), rated


def _default(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """What is taken unseen: the preferred kind of pictures and codes; of sounds all that are not noise alone."""
    sounds = tuple(k for k in kinds if k in SIGNALS and k != FORMULA)
    return sounds or kinds[:1]


def _varied(chosen: Choice, wanted: Sequence[Wanted], asked: str) -> Choice:
    """Photographs and formulas in the place of photographs, where both may be used."""
    own = next(w for w in wanted if w.spec.name == chosen.name)
    mixed_in = chosen.kinds == ("photographs",) and FORMULA in fitting(own, asked)
    return replace(chosen, kinds=("photographs", FORMULA)) if mixed_in else chosen


def _answers(
    network: Network,
    wanted: Sequence[Wanted],
    main: Wanted,
    kinds: Sequence[str],
    scales: Mapping[str, Scale],
    threads: int | None,
) -> dict[str, Answers]:
    """What the network answers to some inputs of each kind; empty where it is too large, or cannot be rated or run."""
    most = affordable(network)
    if most < LEAST * len(kinds) and _is_line(main):  # of a line all is told by whether it is one of text
        kinds = [k for k in kinds if k not in (FORMULA, *SECOND)][: most // LEAST]
    number = min(PROBE, most // max(1, len(kinds)))
    batch = max([1, *(w.spec.batch or 1 for w in wanted)])
    if number < LEAST or batch > number:
        return {}
    session = session_of(network, threads, spin=True)
    if session is None:
        return {}
    names = [t.name for t in network.graph.outputs]
    specs = tuple(w.spec for w in wanted)
    found: dict[str, Answers] = {}
    maps = False
    for kind in kinds:
        drawn = tuple(replace(w, among=(kind,) if w is main else w.among) for w in wanted)
        answers = _run(session, names, specs, made(drawn, number, _SEED, scales))
        if answers is not None and _is_line(main):
            answers = [read_steps(output) for output in answers]
        if answers is not None and (maps or (not found and all(information(output) is None for output in answers))):
            maps, answers = True, [part for output in answers for part in read_maps(output, main.channels)]
        if answers is None or (not found and all(information(output) is None for output in answers)):
            return {}  # what tells nothing of the first kind that could be rated tells nothing of the others
        found[kind] = answers
    return found


def _is_line(wanted: Wanted) -> bool:
    """Whether an input is a picture of a line of text, if it is one of text."""
    if wanted.kind not in ("picture", "bytes") or len(wanted.size) != 2:
        return False
    height, width = wanted.size
    return is_line((height, width))


def _run(
    session: Any, names: Sequence[str], specs: Sequence[InputSpec], values: Mapping[str, NDArray[Any]]
) -> Answers | None:
    """All outputs for all samples; None if the network fails."""
    runs = cut(specs, values, asked_at_once(specs, values, _BATCH))
    try:
        outputs = [
            [_thinned(samples_first(np.asarray(o), runs.size)) for o in outputs_of(session, names, feed)]
            for feed in runs.feeds
        ]
    except (ModelError, ValueError):  # the second: an output is a list of tensors of different shapes
        return None
    columns = list(zip(*outputs, strict=True))
    return [
        np.concatenate(c)[: runs.samples] if all(o.ndim and o.shape[1:] == c[0].shape[1:] for o in c) else np.zeros(1)
        for c in columns
    ]


def _thinned(output: NDArray[Any]) -> NDArray[Any]:
    """Fewer rows or columns of large maps (n, ...): a part of the places tells as much as all."""
    step = -(-output[:1].size // MOST_ELEMENTS) if output.ndim >= 4 else 1
    if step < 2:
        return output
    axis = 3 if output.shape[3] > max(output.shape[1:3]) else 2
    return output.take(np.arange(0, output.shape[axis], step), axis).copy()


def affordable(network: Network) -> int:
    """How many inputs may be run through the network to find out what it expects."""
    return int(PROBE_MACS / max(1, work(network, resolve(network, network.sizes).sizes)))
