"""Models of older opsets converted to the one the package works with; whatever the converter drops is put back."""

from __future__ import annotations

import onnx
from onnx import version_converter

from onnx_udfc.model.protos import copy_except, skeleton
from onnx_udfc.model.quiet import quiet_options
from onnx_udfc.model.upgrade_nodes import highest_faithful, mend_nodes, with_masks

OPSET = 21
IR = 10
TARGETS = (21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9)
LARGEST = 1 << 14  # bytes of an initializer that an operator may need to know


def opset(model: onnx.ModelProto) -> int | None:
    """The opset of the standard operators, None if the model uses none of them."""
    return next((d.version for d in model.opset_import if d.domain in ("", "ai.onnx")), None)


def upgrade(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Converts the model to opset 21 and IR 10; newer ones are kept.

    The converter sees the model without its larger weights: it is quick, and cannot touch them.

    Args:
        model: not changed; part of the result may be shared with it.

    Returns:
        The model, and notes for the user. Where a conversion fails or gives a model that onnxruntime does not load
        though it loads the original, the highest opset that works.
    """
    version = opset(model)
    if version is None or version >= OPSET:
        return _with_ir(model), []
    model = with_masks(model, version)
    light, reason = skeleton(model, LARGEST), ""
    limit = highest_faithful(model.graph, version)
    if limit < OPSET:
        reason = "a node would compute something else"
    for target in (t for t in TARGETS if version < t <= limit):
        converted, fault = _convert(light, target)
        if converted is not None:
            result = _restore(model, converted)
            if _accepted(skeleton(result, LARGEST), light):
                return result, [] if target == OPSET else [_note(target, version, reason)]
            fault = "onnxruntime does not load the result"
        reason = reason or fault
        if converted is None and _convert(light, version + 1)[0] is None:
            break  # it can convert nothing of this model
    raised = _with_ir(model)
    kept = raised if _accepted(skeleton(raised, LARGEST), light) else model
    return kept, [_note(version, version, reason)]


def _convert(light: onnx.ModelProto, target: int) -> tuple[onnx.ModelProto | None, str]:
    """The converted model, or None and why not."""
    try:
        return version_converter.convert_version(light, target), ""
    except Exception as error:  # whatever its C++ code raises
        return None, _reason(error, f"{opset(light)}{target}")


def _note(target: int, version: int, reason: str) -> str:
    """What the user is told when opset 21 was not reached."""
    kept = f"kept at opset {version}" if target == version else f"converted from opset {version} to {target} only"
    return f"{kept}: conversion to opset {OPSET} failed ({reason})"


def _reason(error: Exception, versions: str) -> str:
    """What the converter said, without its source positions and its unfilled place holders."""
    line = " ".join(str(error).split())
    if "no registered schema" in line:
        return f"{line.rsplit('.', 1)[-1].removesuffix(versions)} is not a standard operator"
    return (line.rsplit("failed:", 1)[-1] if "failed:" in line else line).strip()[:160]


def _with_ir(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at IR 10, as newer opsets are defined from some IR on."""
    if model.ir_version >= IR:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = IR
    return result


def _restore(model: onnx.ModelProto, converted: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes of the converted model in everything else of the original."""
    result = onnx.ModelProto()
    copy_except(result, model, {"graph", "opset_import", "ir_version"})
    copy_except(result.graph, model.graph, {"node"})
    result.ir_version = max(model.ir_version, IR)
    result.opset_import.extend(converted.opset_import)
    result.graph.node.extend(converted.graph.node)
    known = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    result.graph.initializer.extend(t for t in converted.graph.initializer if t.name not in known)
    mend_nodes(result.graph, model.graph, opset(model) or OPSET, opset(converted) or OPSET)
    return result


def _accepted(converted: onnx.ModelProto, original: onnx.ModelProto) -> bool:
    """Whether onnxruntime loads the converted model, or does not load the original either."""
    return _loads(converted) or not _loads(original)


def _loads(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime loads the model; nothing is optimized, so it is quick."""
    import onnxruntime as ort

    options = quiet_options()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its exceptions share no base class
        return False
    return True
