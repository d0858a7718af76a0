"""Words that options take, with what a user is told; a row that is added to a table elsewhere adds its word here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

FLOAT = 32  # bits of what stays in float

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")

TARGETS = {
    "cpu": "small files and integer kernels of onnxruntime on processors",
    "cuda": "weights only, for onnxruntime on NVIDIA GPUs",
    "tensorrt": "symmetric int8 as TensorRT reads it",
    "portable": "plain QDQ that any runtime reads",
}
METHODS = {
    "moments": "closed form, from the network's own runs on made-up or real inputs",
    "udfc": "closed form, from weights and batch norm alone; nothing is run",
    "merge": "a removed channel is merged into the one most like it; nothing is run",
    "none": "the next layer keeps its weights",
}
CRITERIA = {
    "l2": "norm of the weights as they were trained",
    "l1": "sum of the weights' sizes as they were trained",
    "folded-l2": "norm of the weights with batch norm folded in",
    "bn-scale": "size of batch norm's scale",
    "obs": "how little the next layers lose, measured (needs --method moments)",
}
BITS: dict[str | int, str] = {
    **dict.fromkeys(range(2, 9), ""),
    32: "weights stay as they are",
    "auto": "layer by layer, chosen by a --budget",
}
RUNNING = {"moments"}  # methods that run the network
TIMED = {"cpu"}  # targets that this machine's processor stands for
ON_GPU = {"cuda", "tensorrt"}  # targets with tensor cores
NO_INTEGERS = {  # targets without integer kernels: why, and what to take
    "cuda": "onnxruntime has no integer convolution on CUDA and would be slower; leave --activations out and add"
    " --float16, which is faster there, or use --target tensorrt"
}


class Rows(dict[Key, Row]):
    """Rows of a table whose keys, or the rows' names, are words of an option; what is added becomes a word."""

    def __init__(self, words: dict[Any, str], rows: Iterable[tuple[Key, Row]]) -> None:
        """Take the rows whose words stand here already."""
        super().__init__(rows)
        self._words = words

    def __setitem__(self, key: Key, row: Row) -> None:
        word = getattr(row, "name", key)
        if word:
            self._words.setdefault(word, getattr(row, "text", ""))
        super().__setitem__(key, row)

    def __delitem__(self, key: Key) -> None:
        self._words.pop(getattr(self[key], "name", key), None)
        super().__delitem__(key)
