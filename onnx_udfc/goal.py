"""What is done for who says what is wanted, and not how: settings are tried until one is safe.

`fast`, `small` and `gpu` have a list of settings, the most rewarding first; the first whose result is safe is taken.
For `tiny` budgets of bytes are lowered as long as the result stays good. Where nothing is safe, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from onnx_udfc.errors import CheckError, GateError, RequestError
from onnx_udfc.options import Options, as_words, specs

if TYPE_CHECKING:
    from onnx_udfc.evaluate.report import Report

SAFE_LOSS = 0.01  # most that may be lost, as predicted, where nobody said that anything may
FEWEST = (0.14, 0.11, 0.09, 0.07, 0.055, 0.045)  # of the bytes, one after another, for `tiny`
QUICK = 0.6  # of the original's time: what takes no more is worth having, whatever its bytes
NOTHING: Mapping[str, Any] = {"bits": 32}


class Reported(Protocol):
    """A compression's result."""

    @property
    def report(self) -> Report:
        """What became of the network."""


R = TypeVar("R", bound=Reported)


@dataclass(frozen=True)
class Goal:
    """What is tried, and what must hold.

    Attributes:
        settings: Options, the most rewarding first.
        loss: Most that may be lost, as predicted.
        most: Of the bytes: above it, and where nothing is won in time either, the next setting is tried, too, and taken
            if it stays below.
    """

    settings: tuple[Mapping[str, Any], ...]
    loss: float = SAFE_LOSS
    most: float = 1.0


LADDER = tuple({"bits": bits} for bits in (4, 5, 6, 8))
GOALS = {
    "fast": Goal(({"bits": 8, "activations": 8}, {"bits": 8}, {"bits": 6}), most=0.3),
    "small": Goal(LADDER, 1.0),
    "tiny": Goal(LADDER, 1.0),
    "gpu": Goal(({"float16": True},)),
}


def reached(
    options: Options,
    compressed: Callable[[Options], R],
    share_of_time: Callable[[R], float | None] = lambda _: None,
    *,
    weights: bool = True,
) -> tuple[R, tuple[str, ...]]:
    """The result for a goal, and notes that say what was chosen and why.

    `share_of_time` says how long a result takes on this machine, as a share of the original's time; None where unknown.
    Nothing is tried where there are no `weights` to do anything to: a check alone may take minutes.

    Raises:
        UdfcError: Not even the unchanged network can be written, or a gate is met by nothing.
    """
    assert options.for_ is not None
    tries, base = list[str](), replace(options, for_=None)
    found = _fewest(base, compressed, tries) if options.for_ == "tiny" and weights else None
    if weights:
        found = found or _rewarding(base, GOALS[options.for_], compressed, tries, share_of_time)
    if found is None:
        found = NOTHING, compressed(replace(base, **NOTHING))
    changes, result = found
    what = f"{words(changes)} was chosen"
    if changes == NOTHING:
        why = "nothing that was tried is safe for this network" if weights else "no float weights can be compressed"
        what = f"{why}, so what it computes was left as it is"
    told = (f"tried before it and not taken: {', '.join(tries)}",) if tries else ()
    return result, (f"--for {options.for_}: {what}", *told)


def planned(options: Options) -> Options:
    """The options that a goal tries first."""
    assert options.for_ is not None
    return replace(options, for_=None, **GOALS[options.for_].settings[0])


def words(changes: Mapping[str, Any]) -> str:
    """Options as they are written on the command line."""
    return " ".join(word for name, value in changes.items() for word in as_words(specs(Options)[name], value))


def _rewarding(
    base: Options,
    goal: Goal,
    compressed: Callable[[Options], R],
    tries: list[str],
    share_of_time: Callable[[R], float | None],
) -> tuple[Mapping[str, Any], R] | None:
    """The first safe result; where it is worth little, a later one that is worth more; None where none is safe."""
    first: tuple[Mapping[str, Any], R] | None = None
    for changes, result in _good(base, goal, compressed, tries):
        share = result.report.measured("bytes") or 0.0
        time = share_of_time(result) if "activations" in changes and share > goal.most else None
        quick = "activations" in changes and (time is None or time <= QUICK)
        if quick or share <= goal.most:
            if first is not None:
                slow = f" and {100 * QUICK:.0f} % of the time" if "activations" in first[0] else ""
                tries.append(f"{words(first[0])} (more than {100 * goal.most:.0f} % of the bytes{slow})")
            return changes, result
        first = first or (changes, result)
    return first


def _good(
    base: Options, goal: Goal, compressed: Callable[[Options], R], tries: list[str]
) -> Iterator[tuple[Mapping[str, Any], R]]:
    """The results that are safe."""
    for changes in goal.settings:
        try:
            result = compressed(replace(base, **changes))
        except (RequestError, CheckError, GateError) as error:
            tries.append(f"{words(changes)} ({str(error).partition(';')[0]})")
            continue
        why = _unsafe(result.report, goal.loss)
        if why:
            tries.append(f"{words(changes)} ({why})")
        else:
            yield changes, result


def _fewest(base: Options, compressed: Callable[[Options], R], tries: list[str]) -> tuple[Mapping[str, Any], R] | None:
    """The result of fewest bytes that is good; None where the largest of FEWEST is not."""
    best: tuple[Mapping[str, Any], R] | None = None
    for share in FEWEST:
        goal = Goal(({"bits": "auto", "budget": {"bytes": f"{share:g}"}},), 1.0)
        found = next(_good(base, goal, compressed, tries), None)
        if found is None:
            break
        best = found
    return best


def _unsafe(report: Report, loss: float) -> str:
    """Why a result is not safe; empty where it is."""
    if report.verdict != "good":
        return report.verdict
    if report.predicted_loss is not None and report.predicted_loss > loss:
        return f"{100 * report.predicted_loss:.1f} % of the score would be lost"
    return ""
