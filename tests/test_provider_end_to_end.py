"""Which provider runs what: one that is the processor under another name stands for a GPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnxruntime as ort
import pytest

from onnx_udfc import compress, validate
from onnx_udfc.inputs.kinds import one_feed
from onnx_udfc.runtime import providers
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
