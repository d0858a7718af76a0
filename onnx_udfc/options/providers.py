"""Execution providers of onnxruntime, and the settings that each takes.

A provider is asked for where its libraries may not be, so what may be set is known here, from onnxruntime's pages
"CUDA Execution Provider" and "TensorRT Execution Provider": a wrong name is told at once, by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Protocol

from onnx_udfc.options.row import RUN, Row
from onnx_udfc.options.voice import OptionError, Said

PROVIDERS = {"cpu": "the processor", "cuda": "an NVIDIA GPU", "tensorrt": "TensorRT on an NVIDIA GPU"}
SWITCH, WHOLE, WORD = "0 or 1", "a whole number", "text"
_CUDA = {
    "device_id": WHOLE, "gpu_mem_limit": WHOLE, "arena_extend_strategy": "kNextPowerOfTwo or kSameAsRequested",
    "cudnn_conv_algo_search": "EXHAUSTIVE, HEURISTIC or DEFAULT", "cudnn_conv_use_max_workspace": SWITCH,
    "cudnn_conv1d_pad_to_nc1d": SWITCH, "do_copy_in_default_stream": SWITCH, "enable_cuda_graph": SWITCH,
    "enable_skip_layer_norm_strict_mode": SWITCH, "fuse_conv_bias": SWITCH, "prefer_nhwc": SWITCH,
    "sdpa_kernel": WHOLE, "tunable_op_enable": SWITCH, "tunable_op_tuning_enable": SWITCH,
    "tunable_op_max_tuning_duration_ms": WHOLE, "use_ep_level_unified_stream": SWITCH, "use_tf32": SWITCH,
}  # fmt: skip
_TENSORRT = {
    "trt_auxiliary_streams": WHOLE, "trt_bf16_enable": SWITCH, "trt_build_heuristics_enable": SWITCH,
    "trt_builder_optimization_level": WHOLE, "trt_context_memory_sharing_enable": SWITCH,
    "trt_cuda_graph_enable": SWITCH, "trt_detailed_build_log": SWITCH, "trt_dla_core": WHOLE, "trt_dla_enable": SWITCH,
    "trt_dump_ep_context_model": SWITCH, "trt_dump_subgraphs": SWITCH, "trt_engine_cache_enable": SWITCH,
    "trt_engine_cache_path": WORD, "trt_engine_cache_prefix": WORD, "trt_engine_hw_compatible": SWITCH,
    "trt_ep_context_embed_mode": WHOLE, "trt_ep_context_file_path": WORD, "trt_extra_plugin_lib_paths": WORD,
    "trt_force_sequential_engine_build": SWITCH, "trt_force_timing_cache": SWITCH, "trt_fp16_enable": SWITCH,
    "trt_int8_calibration_table_name": WORD, "trt_int8_enable": SWITCH,
    "trt_int8_use_native_calibration_table": SWITCH, "trt_layer_norm_fp32_fallback": SWITCH,
    "trt_max_partition_iterations": WHOLE, "trt_max_workspace_size": WHOLE, "trt_min_subgraph_size": WHOLE,
    "trt_onnx_model_folder_path": WORD, "trt_op_types_to_exclude": WORD, "trt_profile_max_shapes": WORD,
    "trt_profile_min_shapes": WORD, "trt_profile_opt_shapes": WORD, "trt_sparsity_enable": SWITCH,
    "trt_tactic_sources": WORD, "trt_timing_cache_enable": SWITCH, "trt_timing_cache_path": WORD,
    "trt_weight_stripped_engine_enable": SWITCH,
}  # fmt: skip
SETTINGS: Mapping[str, Mapping[str, str]] = {"cpu": {}, "cuda": _CUDA, "tensorrt": {**_TENSORRT, **_CUDA}}
_ALL = SETTINGS["tensorrt"]
_BOOLEANS = {"0": "0", "1": "1", "false": "0", "true": "1"}


class Running(Protocol):
    """Options that say what runs the networks."""

    @property
    def provider(self) -> str: ...  # noqa: D102  # as in Options
    @property
    def provider_option(self) -> Mapping[str, str]: ...  # noqa: D102


def read_provider_option(key: str, value: object) -> tuple[str, str]:
    """Return the name of a setting and its value as onnxruntime takes it, checked.

    Raises:
        OptionError: No provider has such a setting, or the value is none of its.
    """
    key = key.strip().lower()
    if key not in _ALL:
        near = difflib.get_close_matches(key, _ALL, 1)
        meant = f"did you mean {near[0]}?" if near else "e.g. use_tf32=0; docs/gpu.md names them"
        raise OptionError("provider_option", f"{key}={value}", f"no provider has a setting {key}; {meant}")
    text = str(int(value)) if isinstance(value, bool | float) and int(value) == value else str(value).strip()
    wanted = _ALL[key]
    known = [word.strip(",") for word in wanted.split() if word != "or"]
    if wanted == SWITCH:
        text = _BOOLEANS.get(text.lower(), "")
    elif wanted == WHOLE:
        text = text if text.isascii() and text.isdigit() and len(text) < 20 else ""
    elif wanted != WORD:
        text = next((word for word in known if word.lower() == text.lower()), "")
    if not text:
        raise OptionError("provider_option", f"{key}={value}", f"{key} must be {wanted}")
    return key, text


Provider = Annotated[str, Row("Execution provider that runs the networks.", RUN, metavar="P", choices=PROVIDERS)]
ProviderOption = Annotated[
    Mapping[str, str],
    Row(
        "A setting of the execution provider by its name in onnxruntime, e.g. prefer_nhwc=1; repeatable.",
        RUN,
        metavar="KEY=VALUE",
        example="use_tf32=0",
        read=read_provider_option,
    ),
]


def refused_settings(o: Running, said: Said) -> str | None:
    """Why the provider does not take these settings, in one line; None where it does."""
    wrong = [key for key in o.provider_option if key not in SETTINGS[o.provider]]
    if not wrong:
        return None
    begin = said.begin("provider_option", {wrong[0]: o.provider_option[wrong[0]]})
    owner = "cuda" if wrong[0] in _CUDA else "tensorrt"
    return f"{begin} is a setting of another provider than {o.provider}: add {said('provider', owner)}, or leave it out"
