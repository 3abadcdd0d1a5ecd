"""Networks in ONNX files, run by onnxruntime wherever it can run best; they share the pool with all others.

Which accelerator is in use depends on the build of onnxruntime that is installed, which people cannot see: therefore a
network says it, in the log and as `provider`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# onnxruntime declares no types; what it returns is declared here instead.

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import DamagedModelError
from .network import Network, WeightFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    from ..lazy import np

PACKAGE = "onnxruntime"
PREFERRED = (  # best first; what the installed build lacks is left out
    "CUDAExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
    "CPUExecutionProvider",
)
FAULTS = ("Fail", "InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NoModel", "NoSuchFile", "NotImplemented")


class OnnxNetwork:
    """One loaded file. Called with a batch of its only input, it returns all outputs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0]

    @property
    def provider(self) -> str:
        """Return where it runs, such as "CUDAExecutionProvider"."""
        return str(self._session.get_providers()[0])

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the pictures that it takes; 0 where it takes any."""
        height, width = (side if isinstance(side, int) else 0 for side in self._input.shape[2:4])
        return height, width

    @property
    def outputs(self) -> int:
        """Return how many arrays a call gives."""
        return len(self._session.get_outputs())

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return what it computes from float32 [B, 3, H, W]; a file made for single pictures gets them one by one."""
        one_by_one = self._input.shape[0] == 1 and len(batch) > 1
        parts = [batch[row : row + 1] for row in range(len(batch))] if one_by_one else [batch]
        results = [self._session.run(None, {self._input.name: part}) for part in parts]
        return _joined(results)


def onnx_network(kind: str, file: WeightFile, outputs: int, memory: int = 500) -> Network:
    """Return the declaration of a network of one file that gives so many arrays."""

    def load(path: Path) -> OnnxNetwork:
        network = load_onnx(path)
        if network.outputs != outputs:
            raise DamagedModelError(f"{path} gives {network.outputs} arrays, expected {outputs}: it is another network")
        return network

    return Network(id=kind, files=(file,), load=load, packages=(PACKAGE,), memory=memory)


def load_onnx(path: Path) -> OnnxNetwork:
    """Return the network of a file; DamagedModelError if it is none."""
    import logging

    runtime: Any = importlib.import_module(PACKAGE)
    faults: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    known = tuple(getattr(faults, name) for name in FAULTS if hasattr(faults, name))
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only: it warns about every optimisation that it could not make
    available = runtime.get_available_providers()
    try:
        session = runtime.InferenceSession(
            str(path), options, providers=[each for each in PREFERRED if each in available]
        )
        network = OnnxNetwork(session)
        _ = network.size
    except (*known, IndexError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedModelError(f"{path} cannot be read as a network ({first}): delete it and get it again") from error
    logging.getLogger(__name__).info("%s runs on %s", path.name, network.provider)
    return network


def _joined(results: Sequence[list[Any]]) -> list[NDArray[np.float32]]:
    if len(results) == 1:
        return results[0]
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]
