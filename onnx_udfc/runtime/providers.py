"""Execution providers as onnxruntime names them, and why one does not load."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from onnx_udfc.errors import RequestError

if TYPE_CHECKING:
    from onnx_udfc.options.providers import Running

CPU_NAME = "CPUExecutionProvider"
_NAMES = {
    "cpu": (CPU_NAME,),
    "cuda": ("CUDAExecutionProvider", CPU_NAME),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU_NAME),
}
_SHARED = ("device_id",)  # settings that the providers behind the first take, too


@dataclass(frozen=True)
class Provider:
    """An execution provider with its settings.

    The name is cpu, cuda or tensorrt; settings go by their names in onnxruntime: those of TensorRT begin with trt_, the
    others are of CUDA.
    """

    name: str = "cpu"
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def chain(self) -> tuple[str, ...]:
        """Its name in onnxruntime, and what runs what it does not run."""
        return _NAMES[self.name]

    @property
    def begin(self) -> str:
        """How a line about it begins: as it was asked for."""
        settings = "".join(f" --provider-option {key}={value}" for key, value in self.settings.items())
        return f"--provider {self.name}{settings}"

    def listed(self) -> list[Any]:
        """What a session takes as its providers, each with its own settings."""
        return [(name, self._of(name)) for name in self.chain[:-1]] + [CPU_NAME]

    def _of(self, name: str) -> dict[str, str]:
        tensorrt = name == _NAMES["tensorrt"][0]
        return {k: v for k, v in self.settings.items() if k in _SHARED or k.startswith("trt_") == tensorrt}

    def check_compiled_in(self) -> None:
        """Refuse one that this onnxruntime was built without.

        Raises:
            RequestError: It is not there.
        """
        if self.chain[0] not in ort.get_available_providers():
            raise RequestError(
                f"--provider {self.name}: this onnxruntime has no {self.chain[0]}; install onnxruntime-gpu"
            )

    def refused(self, model: str, why: str) -> RequestError:
        """The error of a session that it did not make: the library that it lacks, where that is the reason."""
        name = self.chain[0]
        if missing_library(name):
            return RequestError(f"--provider {self.name}: {name} is in this onnxruntime, but {missing_part(name)}")
        return RequestError(f"{self.begin}: no session of {model} ({why})")

    def check_runs(self, session: ort.InferenceSession) -> None:
        """Refuse a session of another provider: one that does not load is passed over in silence.

        Raises:
            RequestError: The session fell back; what is missing is named.
        """
        name = self.chain[0]
        if session.get_providers()[:1] != [name]:
            raise RequestError(f"--provider {self.name}: {name} is in this onnxruntime, but {missing_part(name)}")


CPU = Provider()


def asked_provider(options: Running) -> Provider:
    """The one that options name."""
    return Provider(options.provider, options.provider_option)


def provider_of(given: Provider | str) -> Provider:
    """A provider, or one by its name."""
    return given if isinstance(given, Provider) else Provider(given)


def missing_part(name: str) -> str:
    """What keeps an execution provider from being loaded, in words that follow a comma and a "but"."""
    library = missing_library(name)
    if library:
        return f"{library} is missing: install it, or put its folder into the loader's path"
    return "it does not load: look for its device and driver, and for the libraries that it is made for"


def missing_library(name: str) -> str:
    """The first library that an execution provider lacks, by its file's name; empty where none is known."""
    kind = name.removesuffix("ExecutionProvider").lower()
    folder = Path(ort.__file__).parent / "capi"
    for library in sorted(folder.glob(f"*onnxruntime_providers_{kind}.*")):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            found = re.match(r"(\S+): cannot open shared object", str(error))
            if found and not found[1].startswith(str(folder)):
                return found[1]
    return ""
