"""Which layers run as integers: read from the graph that onnxruntime makes of a model, not from what was intended.

onnxruntime can write its optimized graph to a file. A layer of the model is found again there by its node name, or by
what else survives the fusions: the names of its weight, of its output, or of its node as the beginning of a new one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from onnx_udfc.errors import CheckError, ModelError, one_line
from onnx_udfc.model.quiet import quiet_options
from onnx_udfc.outputs import no_scratch, scratch_folder
from onnx_udfc.runtime.providers import CPU, Provider
from onnx_udfc.runtime.sessions import Source, made_session

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INTEGER_KERNELS = (
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvInteger",
    "MatMulInteger", "QAttention",
)  # fmt: skip
WEIGHT_ONLY_KERNELS = ("MatMulNBits",)
FLOAT_KERNELS = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
WEIGHT_OPS = ("DequantizeLinear", "Cast", "Mul", "Transpose", "Reshape", "Slice", "Gather", "Mod", "Div")


@dataclass(frozen=True)
class Kernel:
    """What became of one layer.

    `kernel` is the operator in the optimized graph; "" where it was not found again. `computes_weight` is whether the
    weight is dequantized in every run.
    """

    name: str
    op_type: str
    kernel: str
    computes_weight: bool

    @property
    def integer(self) -> bool:
        """Whether it runs as integers."""
        return self.kernel in INTEGER_KERNELS


@dataclass(frozen=True)
class RuntimeCheck:
    """The layers of a model, and how often each operator is in the optimized graph."""

    kernels: tuple[Kernel, ...]
    operators: dict[str, int]

    @property
    def integer(self) -> tuple[str, ...]:
        """Names of the layers that run as integers."""
        return tuple(kernel.name for kernel in self.kernels if kernel.integer)

    @property
    def floating(self) -> tuple[str, ...]:
        """Names of the layers that do not."""
        return tuple(kernel.name for kernel in self.kernels if not kernel.integer)


def check_runtime(model: Source, provider: Provider = CPU) -> RuntimeCheck:
    """Look up every layer of a model in the graph that onnxruntime runs.

    A path is needed where the model has external data. TensorRT makes an engine of it that is no graph.

    Raises:
        RequestError: the provider does not load.
        CheckError: onnxruntime does not load the model.
    """
    original = _proto(model)
    optimized = optimized_graph(model, provider)
    producers = {name: node for node in original.graph.node for name in node.output if name}
    made = {name: node for node in optimized.graph.node for name in node.output if name}
    finder = _Finder(optimized)
    constants = {t.name for t in original.graph.initializer}
    kernels = []
    for node in original.graph.node:
        if node.op_type not in LAYER_OPS or node.domain:
            continue
        weights = set(_weight_tensors(node.input[1], producers))
        if not weights & constants and producers.get(node.input[1]) is None:
            continue
        found = finder.find(node, weights)
        in_every_run = found is not None and any(
            name in made and made[name].op_type == "DequantizeLinear" for name in found.input[1:2]
        )
        kernels.append(Kernel(node.name, node.op_type, "" if found is None else found.op_type, in_every_run))
    operators = Counter(node.op_type for node in optimized.graph.node)
    return RuntimeCheck(tuple(kernels), dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))))


class _Finder:
    """Looks kernels up in the optimized graph."""

    def __init__(self, optimized: onnx.ModelProto) -> None:
        known = (*INTEGER_KERNELS, *WEIGHT_ONLY_KERNELS, *FLOAT_KERNELS)
        self._kernels: list[onnx.NodeProto] = [node for node in optimized.graph.node if node.op_type in known]
        self._by_name: dict[str, onnx.NodeProto] = {node.name: node for node in self._kernels if node.name}
        self._by_output: dict[str, onnx.NodeProto] = {node.output[0]: node for node in self._kernels}

    def find(self, node: onnx.NodeProto, weights: set[str]) -> onnx.NodeProto | None:
        """Return the kernel that computes a layer, or None."""
        found = self._by_name.get(node.name) or self._by_output.get(node.output[0])
        if found is not None:
            return found
        sharing = [kernel for kernel in self._kernels if weights & set(kernel.input)]
        if len(sharing) == 1:
            return sharing[0]
        prefixed = [kernel for kernel in self._kernels if node.name and kernel.name.startswith(f"{node.name}/")]
        return prefixed[0] if len(prefixed) == 1 else None


def _weight_tensors(name: str, producers: dict[str, onnx.NodeProto]) -> Iterator[str]:
    """The tensor and everything that it is computed from through casts, unpacking, scaling and dequantization."""
    yield name
    node = producers.get(name)
    if node is not None and node.op_type in WEIGHT_OPS:
        yield from _weight_tensors(node.input[1 if node.op_type == "Gather" else 0], producers)


def optimized_graph(model: Source, provider: Provider = CPU) -> onnx.ModelProto:
    """The graph after onnxruntime's extended optimizations, which make the integer kernels; large weights are left out.

    Raises:
        RequestError: the provider does not load.
        CheckError: onnxruntime does not load the model.
    """
    import onnxruntime as ort

    options = quiet_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with scratch_folder() as folder:
        written = folder / "optimized.onnx"
        options.optimized_model_filepath = str(written)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        try:
            made_session(model, options, provider)
        except ModelError as error:
            if error.__cause__ is None:  # there is no such file
                raise
            _check_loads(model, provider, error.__cause__)
            raise CheckError(f"onnxruntime does not load the model: {one_line(error.__cause__)}") from error
        return onnx.load(str(written), load_external_data=False)  # the operators are wanted, not the weights


def _check_loads(model: Source, provider: Provider, why: BaseException) -> None:
    """Refuse a folder without room: what loads where nothing is to be written is no bad model."""
    with contextlib.suppress(ModelError):
        made_session(model, quiet_options(), provider)
        raise no_scratch(one_line(why)) from why


def _proto(model: Source) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, bytes):
        return onnx.load_from_string(model)
    return onnx.load(str(model), load_external_data=False)
