"""Whether a result is slower than its original on this machine, beyond what a busy machine may explain.

Both run in turn (`runtime.latency`). A short look ends it where the result is not slower; where it seems to be, a
longer one has to say so, too. Nothing is timed that takes less than SHORTEST: there the call costs more than the
network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from onnx_udfc.inputs.kinds import one_feed
from onnx_udfc.inputs.sizes import described
from onnx_udfc.runtime.latency import Latency, Run, paired_latency
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.runs import input_specs
from onnx_udfc.runtime.sessions import Source, open_session

if TYPE_CHECKING:
    import onnx

MARGIN = 1.2  # times the original's time, at the lower end of the interval, from which on a result is slower
LOOKS = (0.4, 2.0)  # seconds of the short look and of the longer one
SHORTEST = 0.2  # milliseconds


def slower_by(
    original: Source, result: onnx.ModelProto, feed: Mapping[str, Any], threads: int, provider: Provider = CPU
) -> float | None:
    """Return the result's time as a share of the original's where that is clearly above one, else None.

    Raises:
        ModelError: One of them does not load.
    """
    found: Latency | None = None
    for seconds in LOOKS:
        found = timed(original, result, feed, threads, seconds, provider)
        if found.low < MARGIN or found.original_ms < SHORTEST:
            return None
    assert found is not None
    return found.ratio


def one_run(source: Source, input_shape: Sequence[str] = (), seed: int = 0, batch: int | None = None) -> dict[str, Any]:
    """Return made-up inputs for one run of a network.

    `input_shape` are sizes that the file leaves open, as in Options; `batch` is None for one sample, or a fixed batch.

    Raises:
        UdfcError: It does not load, or an asked shape or batch does not fit.
    """
    return one_feed(described(source, input_specs(open_session(source)), input_shape), seed, batch=batch)


def timed(
    original: Source,
    compressed: Source,
    feed: Mapping[str, Any],
    threads: int,
    seconds: float,
    provider: Provider = CPU,
    longest: float | None = None,
) -> Latency:
    """Time both for about so many seconds; see `paired_latency`.

    Raises:
        ModelError: One of them does not load.
    """

    def fresh(model: Source) -> Run:
        session = open_session(model, provider, threads, arena=True)
        return lambda: session.run(None, dict(feed))

    return paired_latency(partial(fresh, original), partial(fresh, compressed), seconds, longest)
