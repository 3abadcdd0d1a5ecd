"""Does the picture obey its hint? The hint is made once more of the drawn picture, and the two are compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..metrics import edge_f1
from .lpips import Lpips
from .measure import Better, Image, Measure, Sample, pair

ON = 128  # from here on an edge is one
CHANNEL = 256  # values of a colour's channel


class EdgeF1(Measure):
    """Edges that are there or not: the F1 score, two pixels off allowed."""

    @property
    def better(self) -> Mapping[str, Better]:
        return {"edge_f1": Better.HIGHER}

    def add(self, sample: Sample) -> Mapping[str, float]:
        found, wanted = (_edges(each) for each in pair(sample))
        return {"edge_f1": edge_f1(found, wanted)}


class SoftEdges(Measure):
    """Soft edges: SSIM (Wang et al. 2004), and LPIPS where its network is given."""

    def __init__(self, lpips: Lpips | None = None) -> None:
        self._lpips = lpips

    @property
    def better(self) -> Mapping[str, Better]:
        return {"ssim": Better.HIGHER, **({} if self._lpips is None else {"lpips": Better.LOWER})}

    def add(self, sample: Sample) -> Mapping[str, float]:
        from torchmetrics.functional.image import structural_similarity_index_measure

        found, wanted = pair(sample)
        ssim = structural_similarity_index_measure(_tensor(found), _tensor(wanted), data_range=1.0)
        assert isinstance(ssim, Tensor)
        more = {} if self._lpips is None else {"lpips": self._lpips(found, wanted)}
        return {"ssim": float(ssim), **more}


class DepthError(Measure):
    """Depth: the root mean square error over depths of 0 to 1, as they are and after the best line.

    Networks tell depth but for scale and offset, so the second value takes both out by least squares (Ranftl et al.
    2020).
    """

    @property
    def better(self) -> Mapping[str, Better]:
        return {"depth_rmse": Better.LOWER, "depth_rmse_aligned": Better.LOWER}

    def add(self, sample: Sample) -> Mapping[str, float]:
        found, wanted = (each.mean(axis=2).ravel() / (CHANNEL - 1) for each in pair(sample))
        line = np.stack([found, np.ones_like(found)], axis=1)
        aligned = line @ np.linalg.lstsq(line, wanted, rcond=None)[0]
        return {"depth_rmse": _rmse(found, wanted), "depth_rmse_aligned": _rmse(aligned, wanted)}


class Segmentation(Measure):
    """Regions in flat colours: intersection over union, averaged over the colours that occur anywhere in the set."""

    @property
    def better(self) -> Mapping[str, Better]:
        return {"mean_iou": Better.HIGHER, "pixel_accuracy": Better.HIGHER}

    def __init__(self) -> None:
        self._counts: dict[int, tuple[int, int]] = {}  # colour -> pixels in both, pixels in either

    def add(self, sample: Sample) -> Mapping[str, float]:
        found, wanted = (_colours(each) for each in pair(sample))
        for colour in np.union1d(found, wanted):
            one, other = found == colour, wanted == colour
            both, either = self._counts.get(int(colour), (0, 0))
            self._counts[int(colour)] = both + int((one & other).sum()), either + int((one | other).sum())
        return {"pixel_accuracy": float((found == wanted).mean())}

    def result(self) -> Mapping[str, float]:
        return {"mean_iou": float(np.mean([both / either for both, either in self._counts.values()]))}

    def state(self) -> dict[str, Tensor]:
        rows = [(colour, *counts) for colour, counts in self._counts.items()]
        return {"counts": torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._counts = {colour: (both, either) for colour, both, either in state["counts"].tolist()}


def _edges(hint: Image) -> Image:
    return np.where(hint.max(axis=2) >= ON, 255, 0).astype(np.uint8)


def _colours(hint: Image) -> np.ndarray:
    """Return each pixel's colour [H, W] as one number."""
    red, green, blue = (hint[..., channel].astype(np.int64) for channel in range(3))
    return (red * CHANNEL + green) * CHANNEL + blue


def _rmse(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(one - other))))


def _tensor(picture: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / (CHANNEL - 1)
