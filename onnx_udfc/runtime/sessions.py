"""onnxruntime sessions on a chosen execution provider, quiet, from anything that holds a model."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_udfc.errors import ModelError, one_line
from onnx_udfc.model.quiet import quiet_options
from onnx_udfc.model.saving import is_large, model_bytes, save, serialized
from onnx_udfc.outputs import scratch_folder
from onnx_udfc.runtime.machine import quota
from onnx_udfc.runtime.providers import CPU, Provider, provider_of

if TYPE_CHECKING:
    from onnx_udfc.model.network import Network

Source = str | Path | bytes | onnx.ModelProto
LIMITED_MEMORY = 1 << 30  # bytes that all limited sessions of this process may take together


def open_session(
    model: Source,
    provider: Provider | str = CPU,
    threads: int | None = None,
    optimize: bool = True,
    lean: bool = False,
    spin: bool = True,
    arena: bool = False,
    repacked: bool = True,
) -> ort.InferenceSession:
    """Return a session.

    Args:
        model: a model above 2 GB is written to a temporary folder first.
        provider: what runs it, or its name alone: cpu, cuda or tensorrt.
        threads: within an operator; 0 or None for as many as there are cores.
        optimize: otherwise the graph runs node by node as written.
        lean: take as little memory as can be had, at the cost of time: no repacked and no unpacked copies of weights.
        spin: threads wait awake for the next run, onnxruntime's default; not where numpy needs the cores in between.
        arena: keep the most memory that a run ever took for the next one (an output then keeps all of it, too), as
            onnxruntime does by itself: for what is timed or measured.
        repacked: matrices have a second copy in the order that kernels read them in; a few runs gain nothing by it.

    Raises:
        RequestError: The provider is not in this onnxruntime, does not load (then what is missing is named), or does
            not take the model.
        ModelError: The model does not load on the processor.
    """
    wanted = provider_of(provider)
    options = session_options(threads, spin)
    if lean or not repacked:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if lean or not arena:
        options.enable_cpu_mem_arena = False
    if lean or not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return made_session(model, options, wanted)


def made_session(model: Source, options: ort.SessionOptions, provider: Provider) -> ort.InferenceSession:
    """A session with the caller's options, on the provider that was asked for and on no other.

    Raises:
        RequestError: As `open_session`.
        ModelError: The model does not load.
    """
    provider.check_compiled_in()
    try:
        with loadable(model) as content:
            # Without its fallback: that prints to standard output, and hides the error behind another session.
            session = ort.InferenceSession(content, options, providers=provider.listed(), enable_fallback=0)
    except ModelError:
        raise
    except Exception as error:
        # onnxruntime's exceptions share no base class but Exception
        if provider != CPU:
            raise provider.refused(described(model), one_line(error)) from error
        raise ModelError(f"{described(model)}: onnxruntime cannot load it ({one_line(error)})") from error
    session._model_bytes = None  # onnxruntime keeps it for a fallback, and there is none
    provider.check_runs(session)
    return session


def check_provider(provider: Provider) -> None:
    """Refuse a provider that does not load, before anything else is done; the processor always does.

    Raises:
        RequestError: what is missing is named.
    """
    if provider.name == "cpu":
        return
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "one", [x], [y])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    open_session(made, provider, 1)


def session_options(threads: int | None, spin: bool = True) -> ort.SessionOptions:
    """Quiet options; arguments as of `open_session`."""
    options = quiet_options()
    options.intra_op_num_threads = threads or quota() or 0
    options.inter_op_num_threads = 1
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@functools.cache
def _limited_arena() -> None:
    """Register the memory that limited sessions share: what asks for more than it fails, in place of the machine."""
    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    as_needed, default = 1, -1
    ort.create_and_register_allocator(
        kind,
        ort.OrtArenaCfg({
            "max_mem": LIMITED_MEMORY, "arena_extend_strategy": as_needed, "initial_chunk_size_bytes": default,
            "max_dead_bytes_per_chunk": default,
        }),
    )  # fmt: skip


def run_limited(model: Source, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]], seconds: float) -> list[Any]:
    """Run a model once, as it is written, where nobody knows what it asks for.

    It is loaded without optimizations, which would compute constants in unlimited memory, and stopped after so many
    `seconds`.

    Raises:
        TimeoutError: it was stopped.
        ModelError: it does not load or run, or takes more than LIMITED_MEMORY bytes.
    """
    _limited_arena()
    options = session_options(None, spin=True)
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    asked, stopped = ort.RunOptions(), threading.Event()
    asked.log_severity_level = options.log_severity_level

    def stop() -> None:
        stopped.set()
        asked.terminate = True

    clock = threading.Timer(seconds, stop)
    clock.daemon = True
    try:
        with loadable(model) as content:
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        clock.start()
        return list(session.run(list(outputs), dict(feeds), asked))
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        if stopped.is_set():
            raise TimeoutError(f"no end within {seconds:g} s") from error
        raise ModelError(f"{described(model)} does not run ({one_line(error)})") from error
    finally:
        clock.cancel()


def packed(model: onnx.ModelProto) -> Source:
    """A model as bytes where they can hold it, so that the model can go before onnxruntime makes copies of its own."""
    return model if is_large(model) else serialized(model)


def session_of(network: Network, threads: int | None = 1, spin: bool = False) -> ort.InferenceSession | None:
    """A session of a network on the processor; None where onnxruntime lacks an operator."""
    try:
        return open_session(packed(network.to_model()), threads=threads, spin=spin)
    except ModelError:
        return None


@contextlib.contextmanager
def loadable(model: Source) -> Iterator[str | bytes]:
    """Give what InferenceSession takes: a path (external data stays beside it) or bytes."""
    if isinstance(model, onnx.ModelProto) and not is_large(model):
        yield serialized(model)
    elif isinstance(model, bytes):
        yield model
    else:
        with as_file(model) as path:
            if not path.is_file():
                raise ModelError(f"{path}: no such file")
            yield str(path)


def described(model: Source) -> str:
    """Return how to call a model in a message."""
    return str(model) if isinstance(model, str | Path) else "the model"


def file_bytes(model: Source) -> int:
    """Return the size of a model with its external data."""
    if isinstance(model, bytes):
        return len(model)
    if isinstance(model, onnx.ModelProto):
        return model_bytes(model)
    path = Path(model)
    proto = onnx.load(path, load_external_data=False)
    external: set[str] = {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"}
    return path.stat().st_size + sum((path.parent / e).stat().st_size for e in external)


@contextlib.contextmanager
def as_file(model: Source) -> Iterator[Path]:
    """Give a path to the model, in a temporary folder if it has none."""
    if isinstance(model, str | Path):
        yield Path(model)
        return
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
        else:
            save(model, path)
        yield path
