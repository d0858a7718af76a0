"""Which nodes another provider runs than the one that was asked for: from the profile of one run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_udfc.errors import ModelError, one_line
from onnx_udfc.outputs import temporary_folder
from onnx_udfc.runtime.providers import Provider
from onnx_udfc.runtime.sessions import Source, described, made_session, session_options

KERNEL = "_kernel_time"  # ends the name of a node's event


@dataclass(frozen=True)
class Fallbacks:
    """What one run of a network did elsewhere.

    Attributes:
        nodes: names of the nodes of the loaded graph that another provider ran, in order.
        operators: how many of them there are of each operator.
        copies: how often a tensor was copied between the device and the processor, but for inputs and outputs.
    """

    nodes: tuple[str, ...]
    operators: Mapping[str, int]
    copies: int


def fallbacks(model: Source, feed: Mapping[str, Any], provider: Provider, threads: int | None = None) -> Fallbacks:
    """Run a network once and look where its nodes ran.

    Raises:
        RequestError: The provider does not load.
        ModelError: The network does not load or run.
    """
    options = session_options(threads)
    with temporary_folder(tempfile.gettempdir()) as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        session = made_session(model, options, provider)
        try:
            session.run(None, dict(feed))
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise ModelError(f"{described(model)}: onnxruntime cannot run it ({one_line(error)})") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return read_profile(events, provider.chain[0])


def read_profile(events: Iterable[Mapping[str, Any]], asked: str) -> Fallbacks:
    """What a profile tells."""
    nodes: dict[str, str] = {}
    copies = 0
    for event in events:
        told = event.get("args", {})
        if event.get("cat") != "Node" or not str(event["name"]).endswith(KERNEL):
            continue
        operator = str(told.get("op_name", ""))
        if operator.startswith("Memcpy"):
            copies += 1
        elif told.get("provider") != asked:
            nodes[str(event["name"]).removesuffix(KERNEL)] = operator
    counts = {op: list(nodes.values()).count(op) for op in sorted(set(nodes.values()))}
    return Fallbacks(tuple(nodes), counts, copies)
