"""Bisection for the smallest network that passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnx_udfc.errors import GateError, RequestError
from onnx_udfc.options import Options, parse_requirement
from onnx_udfc.search import HALVINGS, asks_for_search, search_note, smallest

GATE = (parse_requirement("agreement>=0.9"),)
ASKED = Options(budget={"macs": "0.8"}, require=GATE)


def passing_from(least: float, seen: list[float]) -> Callable[[Options], float]:
    def compressed(options: Options) -> float:
        share = options.budgets()[0].amount
        seen.append(share)
        if share < 0.1:
            raise RequestError("too small")
        if share < least:
            raise GateError("agreement")
        return share

    return compressed


@pytest.mark.parametrize("least", [0.05, 0.2, 0.33, 0.5, 0.79])
def test_finds_the_smallest_that_passes(least: float) -> None:
    seen: list[float] = []
    found, options = smallest(ASKED, passing_from(least, seen))
    assert len(seen) == HALVINGS + 1
    assert max(least, 0.1) <= found <= max(least, 0.1) + 0.8 / 2**HALVINGS
    assert options.budgets()[0].amount == pytest.approx(found, rel=1e-5)


def test_a_gate_that_fails_at_the_budget_fails() -> None:
    with pytest.raises(GateError):
        smallest(ASKED, passing_from(0.9, []))


def test_all_budgets_shrink_together_and_amounts_stay_amounts() -> None:
    options = Options(budget={"params": "0.8", "bytes": "2MB"}, require=GATE)
    asked: list[dict[str, str]] = []

    def compressed(trial: Options) -> int:
        asked.append(dict(trial.budget))
        return 0

    smallest(options, compressed)
    assert asked[1] == {"params": "0.4", "bytes": "1000000"}


def test_only_a_budget_with_a_lower_bound_on_fidelity_searches() -> None:
    assert asks_for_search(ASKED)
    assert not asks_for_search(Options(budget={"macs": "0.8"}))
    assert not asks_for_search(Options(prune=0.5, require=GATE))
    assert not asks_for_search(Options(budget={"macs": "0.8"}, require=(parse_requirement("bytes<=100"),)))


def test_the_note_names_the_budget() -> None:
    note = search_note(ASKED, Options(budget={"macs": "0.3"}))
    assert "macs=0.3" in note
    assert "agreement>=0.9" in note
