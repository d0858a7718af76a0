"""Which provider runs what: one that is the processor under another name stands for a GPU."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from onnx_udfc import compress, sweep, validate
from onnx_udfc.errors import RequestError
from onnx_udfc.inputs.kinds import one_feed
from onnx_udfc.runtime import providers
from onnx_udfc.runtime.latency import Latency
from onnx_udfc.runtime.providers import CPU_NAME
from tests.decide.test_file_size import WIDE
from tests.small_graphs import small_model

OPEN = WIDE.replace("float[1, 3, 8, 8] x", "float[N, 3, 8, 8] x").replace(
    "float[1, 10, 8, 8] y", "float[N, 10, 8, 8] y"
)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many sessions were opened on each provider, by its name for the user."""
    found: Counter[str] = Counter()
    told = providers.Provider.listed

    def listen(self: providers.Provider) -> list[Any]:
        found[" ".join([self.name, *self.settings])] += 1
        return told(self)

    monkeypatch.setitem(providers._NAMES, "cuda", (CPU_NAME,))
    monkeypatch.setattr(providers.Provider, "listed", listen)
    assert CPU_NAME in ort.get_available_providers()
    return found


def test_passes_checks_and_times_are_of_the_provider(listed: Counter[str]) -> None:
    found = listed
    model = small_model(OPEN)
    asked: dict[str, Any] = {"prune": 0.25, "bits": 8, "seed": 1, "threads": 1, "force": True, "align": 1}
    here = compress(model, **asked)
    assert set(found) == {"cpu"}
    on_cpu = found["cpu"]
    found.clear()
    there = compress(model, provider="cuda", provider_option={"use_tf32": 0}, **asked)
    assert found["cuda use_tf32"] > 3  # the look before, the check of both networks, and passes of them
    assert 0 < found["cpu"] < on_cpu  # inputs are chosen on the processor
    assert there.report.fidelity == here.report.fidelity
    assert there.report.options["provider_option"] == {"use_tf32": "0"}


def test_a_latency_table_is_of_the_provider_and_the_batch(
    listed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx_udfc.decide import latency_table

    found = listed
    sizes = set()

    def look(wanted: Any, batch: int | None = None) -> Any:
        sizes.add(batch)
        return one_feed(wanted, batch=batch)

    monkeypatch.setattr(latency_table, "one_feed", look)
    asked: dict[str, Any] = {"budget": {"latency": "0.9"}, "method": "none", "threads": 1, "force": True}
    compress(small_model(OPEN), provider="cuda", batch=4, target="cuda", **asked)
    assert found["cuda"] > 10
    assert sizes == {4}


def test_validate_tells_what_the_provider_did(listed: Counter[str]) -> None:
    found = listed
    model = small_model(OPEN)
    asked: dict[str, Any] = {"provider": "cuda", "seconds": 0.01, "batch": 3, "memory": False, "threads": 1}
    validation = validate(model, model, **asked, provider_option=["use_tf32=0"])
    assert validation.provider == "cuda"
    assert validation.provider_option == {"use_tf32": "0"}
    assert validation.latency_inputs == (("x", (3, 3, 8, 8)),)
    assert validation.kernels is not None
    assert len(validation.kernels.floating) == 3
    assert validation.fallbacks is not None
    assert (validation.fallbacks.nodes, validation.fallbacks.copies) == ((), 0)
    assert validation.to_dict()["fallbacks"] == {"nodes": [], "operators": {}, "copies": 0}
    assert found["cuda use_tf32"] >= 4


def test_a_batch_that_the_network_does_not_take_is_refused_before_any_work(tmp_path: Path) -> None:
    model = small_model(WIDE)  # of one sample
    with pytest.raises(RequestError, match="batch=5: the network takes 1 at a time"):
        compress(model, bits=8, batch=5)
    with pytest.raises(RequestError, match="batch=5: the network takes 1 at a time"):
        validate(model, model, batch=5)
    (row,) = sweep(model, tmp_path, bits=[8], batch=5, method="none", jobs=1).rows
    assert "the network takes 1 at a time" in row.error


def test_a_sweep_is_timed_at_the_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def look(_original: Any, _model: Any, feed: dict[str, Any], *_: Any) -> Latency:
        seen.append(feed["x"].shape)
        return Latency(1, 1, 1, 1, 1, 3)

    monkeypatch.setattr(importlib.import_module("onnx_udfc.sweep"), "timed", look)
    sweep(small_model(OPEN), tmp_path, bits=[8], batch=5, method="none", jobs=1)
    assert set(seen) == {(5, 3, 8, 8)}
