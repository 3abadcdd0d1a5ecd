"""FID: the Fréchet distance between features of drawn and real pictures (Heusel et al. 2017), by torchmetrics.

Which features, is a choice: Inception's are those that papers report, CLIP's follow people's eyes more closely
(Kynkäänniemi et al. 2023). Only sums over the features are kept, so sets may be of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....core.errors import HintError, MissingDependencyError, ModelError
from .measure import Better, Image, Measure, Sample

INCEPTION = 2048  # features of Inception's last pooling
LEAST = 2  # pictures of which there is a covariance
STATE = tuple(
    f"{of}_features_{what}" for of in ("real", "fake") for what in ("sum", "cov_sum", "num_samples")
)  # of torchmetrics


class Features(nn.Module):
    """Features that were computed elsewhere: what torchmetrics calls its network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """Return features [N, D] as they are."""
        return features


class Fid(Measure):
    """FID on any features."""

    @property
    def better(self) -> Mapping[str, Better]:
        return {"fid": Better.LOWER}

    def __init__(self, features: Callable[[Image], Tensor], width: int) -> None:
        """features: picture [H, W, 3] -> [width]."""
        self._features = features
        self._metric = _metric(Features(width))

    def add(self, sample: Sample) -> Mapping[str, float]:
        self._metric.update(self._features(sample.drawn)[None].cpu(), real=False)
        return {}

    def refer(self, picture: Image) -> None:
        self._metric.update(self._features(picture)[None].cpu(), real=True)

    def result(self) -> Mapping[str, float]:
        counts = self._metric.real_features_num_samples, self._metric.fake_features_num_samples
        if min(counts) < LEAST:
            raise HintError(
                f"FID compares sets of pictures, got {counts[0]} and {counts[1]}: give {LEAST} or more of each"
            )
        return {"fid": max(0.0, float(self._metric.compute()))}

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self._metric, name).clone() for name in STATE}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name in STATE:
            setattr(self._metric, name, state[name])
        self._metric._update_count = 1  # torchmetrics warns of a result before any update


def inception(path: Path) -> Callable[[Image], Tensor]:
    """Return Inception's features, from weights in torch-fidelity's form; all pictures are scaled to 299x299 by it.

    MissingDependencyError without the package torch-fidelity, ModelError for a file that is none of its weights.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        network: Any = NoTrainInceptionV3("inception-v3-compat", [str(INCEPTION)], str(path))
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "--inception needs the package 'torch-fidelity' (pip install torch-fidelity), or give --fid-features clip"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"'{path}' holds no weights of Inception as torch-fidelity reads them: give its file "
            "weights-inception-2015-12-05-6726825d.pth"
        ) from error

    @torch.no_grad()
    def features(picture: Image) -> Tensor:
        return network(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None])[0]

    return features


def _metric(network: nn.Module) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=network)
