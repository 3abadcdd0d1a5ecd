"""What the tests of networks share: random weights that show something, and detectors of controlnet-aux itself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from controlstack.preprocessors import Preprocessor
from controlstack.preprocessors.networks.pool import PlainManager, Pool
from controlstack.preprocessors.networks.store import Store
from controlstack.preprocessors.perform import Runtime
from safetensors.torch import save_file
from skimage import data
from torch import nn

PEERS = "detectors_of_tests"


class Networks:
    """Tools for tests of networks."""

    @staticmethod
    def photo(height: int = 64, width: int = 128) -> np.ndarray:
        return cv2.resize(data.astronaut()[:400, :600], (width, height), interpolation=cv2.INTER_AREA)

    @staticmethod
    def detector(module: str, name: str) -> Any:
        """A class of controlnet-aux itself, with what it imports, but without its siblings."""
        package = types.ModuleType(PEERS)
        package.__path__ = list(importlib.util.find_spec("controlnet_aux").submodule_search_locations)
        sys.modules.setdefault(PEERS, package)
        return getattr(importlib.import_module(f"{PEERS}.{module}"), name)

    @staticmethod
    def needs(*packages: str) -> None:
        """Skip unless they are installed; nothing is imported, since that breaks beside many a package."""
        for package in packages:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"needs {package}, which hosts of these networks have")

    @staticmethod
    def unsigned(preprocessor: Preprocessor) -> Preprocessor:
        """The same with files of any content, since no real weights are here."""
        networks = tuple(
            replace(network, files=tuple(replace(file, bytes=None, sha256="") for file in network.files))
            for network in preprocessor.networks
        )
        return replace(preprocessor, networks=networks)

    @staticmethod
    def runtime(folder: Path) -> Runtime:
        return Runtime(store=Store(folder), pool=Pool(PlainManager("cpu")))

    @staticmethod
    def randomise(network: nn.Module, gain: float = 1.0) -> nn.Module:
        """Weights that keep the size of what flows through, and statistics that are not those of a fresh network."""
        torch.manual_seed(0)
        for name, tensor in network.state_dict().items():
            if tensor.dim() > 1 and tensor.is_floating_point():
                tensor.normal_(0, gain * (2 / tensor[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.uniform_(-0.1, 0.1).add_(1.0 if name.endswith("weight") else 0.0)
        return network.eval()

    def stored(
        self, preprocessor: Preprocessor, network: nn.Module, folder: Path, layout: Callable[[Any], Any] = dict
    ) -> Preprocessor:
        """The preprocessor, whose file now lies in the folder with the tensors of a network, in the file's layout."""
        ready = self.unsigned(preprocessor)
        torch.save(layout(network.state_dict()), folder / ready.networks[0].files[0].name)
        return ready

    @staticmethod
    def stored_in(preprocessor: Preprocessor, network: nn.Module, folder: Path) -> Preprocessor:
        """The preprocessor, whose file lies in the folder as safetensors."""
        path = folder / preprocessor.networks[0].files[0].name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), path)
        return preprocessor


@pytest.fixture(scope="session")
def networks() -> Networks:
    return Networks()
