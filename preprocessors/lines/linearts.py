"""Preprocessors that draw as people do: line art of photographs and of anime, and straight lines of buildings.

Sources: sketch generator of Chan, Durand, Isola: Learning to generate line drawings, 2022; Anime2Sketch (Xiang, 2021);
manga lines (Li et al., 2017); M-LSD (Gu et al., 2021).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..declaration import Output, Parameter
from ..networks import weights
from ..networks.loading import load_network, to_array, to_tensor
from ..networks.network import Network
from ..networks.peers import PACKAGE, peer
from ..perform import Preprocessor

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ..resize import Image
else:
    from ..lazy import cv2, np

RESIDUAL_BLOCKS = 3  # of the sketch generator
ANIME_DOWNS, ANIME_WIDTH = 8, 64  # levels and first channels of Anime2Sketch's U-Net
ANIME_CELL = 2**ANIME_DOWNS  # pixels; its sides must be multiples
MLSD_LINES, MLSD_WINDOW = 200, 3  # best centres that are looked at, and the width of their neighbourhood
MLSD_STRIDE = 2  # pixels of the picture for each of the network's result
MLSD_PLANES = 5  # of its result: centre, then displacement of both ends


def _lineart(images: Image, network: nn.Module) -> Image:
    """Return lines [B, H, W], white on black; the network draws black on white."""
    import torch

    with torch.inference_mode():
        drawn = to_array(network(to_tensor(images, network) / 255))[:, 0]
    return 255 - (drawn * 255).clip(0, 255).astype(np.uint8)


def _lineart_anime(images: Image, network: nn.Module) -> Image:
    """Stretched to whole cells of the network and back, as it is done everywhere with these weights."""
    import torch

    height, width = images.shape[1:3]
    cells = -(-width // ANIME_CELL) * ANIME_CELL, -(-height // ANIME_CELL) * ANIME_CELL
    stretched = np.stack([_cubic(image, cells) for image in images])
    with torch.inference_mode():
        drawn = to_array(network(to_tensor(stretched, network) / 127.5 - 1) * 127.5 + 127.5)[:, 0]
    back = np.stack([_cubic(each, (width, height)) for each in drawn])
    return 255 - back.clip(0, 255).astype(np.uint8)


def _manga(images: Image, network: nn.Module) -> Image:
    """Return lines [B, H, W], white on black; the network sees grey, and draws black on white."""
    import torch

    grey = np.stack([np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in images])
    with torch.inference_mode():
        drawn = to_array(network(to_tensor(grey[..., None], network)))[:, 0]
    return (255 - drawn).clip(0, 255).astype(np.uint8)


def _cubic(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if image.shape[1::-1] == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))


def _mlsd(images: Image, network: nn.Module, value: float, distance: float) -> Image:
    """Return straight lines [H, W], white and one pixel wide."""
    import torch

    pixels = to_tensor(images, network)
    with torch.inference_mode():
        ones = torch.ones_like(pixels[:, :1])
        maps = network(torch.cat([pixels, ones], dim=1) / 127.5 - 1)
        canvas = np.zeros(images.shape[:3], np.uint8)
        for drawn, planes in zip(canvas, maps, strict=True):
            for start, end in find_lines(planes, value, distance):
                cv2.line(drawn, start, end, 255, 1)
    return canvas


def find_lines(planes: Any, value: float, distance: float) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the ends (x, y), in pixels of the picture, of the lines in M-LSD's result [5 or more, h, w].

    A line counts if its centre scores above `value` and is the best of its neighbourhood, and its ends lie more than
    `distance` apart, both in the network's pixels.
    """
    import torch
    from torch.nn import functional

    heat = torch.sigmoid(planes[:1])
    best = functional.max_pool2d(heat, MLSD_WINDOW, stride=1, padding=MLSD_WINDOW // 2)
    heat = (heat * (heat == best)).flatten()
    scores, places = torch.topk(heat, min(MLSD_LINES, heat.numel()))
    ends = to_array(planes[1:MLSD_PLANES].flatten(1)[:, places]).T
    rows, columns = np.divmod(places.cpu().numpy(), planes.shape[2])
    centres = np.stack([columns, rows, columns, rows], axis=1).astype(np.float32)
    apart = np.sqrt(((ends[:, :2] - ends[:, 2:]) ** 2).sum(axis=1))
    lines = MLSD_STRIDE * (centres + ends)[(to_array(scores) > value) & (apart > distance)]
    return [((int(x1), int(y1)), (int(x2), int(y2))) for x1, y1, x2, y2 in lines.tolist()]


def _load_sketch(path: Path) -> nn.Module:
    return load_network(path, partial(peer("lineart").Generator, 3, 1, RESIDUAL_BLOCKS))


def _load_anime(path: Path) -> nn.Module:
    from torch import nn

    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    build = peer("lineart_anime").UnetGenerator
    return load_network(path, partial(build, 3, 1, ANIME_DOWNS, ANIME_WIDTH, norm_layer=norm, use_dropout=False))


def _load_manga(path: Path) -> nn.Module:
    from .manga import MangaLines

    return load_network(path, MangaLines)


def _load_mlsd(path: Path) -> nn.Module:
    return load_network(path, peer("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large)


NEEDED = (PACKAGE, "einops", "huggingface_hub")
SKETCH = Network(id="lineart", files=(weights.LINEART,), load=_load_sketch, packages=NEEDED, memory=2500)
SKETCH_COARSE = Network(
    id="lineart_coarse", files=(weights.LINEART_COARSE,), load=_load_sketch, packages=NEEDED, memory=2500
)
ANIME = Network(id="lineart_anime", files=(weights.LINEART_ANIME,), load=_load_anime, packages=NEEDED, memory=1000)
MANGA = Network(id="lineart_manga", files=(weights.MANGA,), load=_load_manga, packages=("torch",), memory=3000)
MLSD_NETWORK = Network(id="mlsd", files=(weights.MLSD,), load=_load_mlsd, packages=(PACKAGE,), memory=1000)

LINEART_REALISTIC = Preprocessor(
    id="lineart_realistic",
    title="Line art (realistic)",
    doc="Fine lines of a photograph.",
    run=_lineart,
    output=Output.GRAY,
    polarity="white on black",
    aliases=("lineart",),
    control_types=("Lineart",),
    networks=(SKETCH,),
    batchable=True,
)

LINEART_COARSE = Preprocessor(
    id="lineart_coarse",
    title="Line art (coarse)",
    doc="Rougher lines of a photograph.",
    run=_lineart,
    output=Output.GRAY,
    polarity="white on black",
    control_types=("Lineart",),
    networks=(SKETCH_COARSE,),
    batchable=True,
)

LINEART_ANIME = Preprocessor(
    id="lineart_anime",
    title="Line art (anime)",
    doc="Lines of an anime picture.",
    run=_lineart_anime,
    output=Output.GRAY,
    polarity="white on black",
    control_types=("Lineart",),
    networks=(ANIME,),
    batchable=True,
)

LINEART_MANGA = Preprocessor(
    id="lineart_anime_denoise",
    title="Line art (manga)",
    doc="Structural lines of a manga page or an anime picture, without screens and hatching.",
    run=_manga,
    output=Output.GRAY,
    polarity="white on black",
    aliases=("lineart_manga", "manga_line"),
    control_types=("Lineart",),
    networks=(MANGA,),
    batchable=True,
)

MLSD = Preprocessor(
    id="mlsd",
    title="Straight lines (M-LSD)",
    doc="Straight lines of buildings and rooms.",
    run=_mlsd,
    output=Output.BINARY,
    polarity="white on black",
    control_types=("MLSD",),
    parameters=(
        Parameter(name="value", label="Value threshold", default=0.1, minimum=0.01, maximum=2.0, step=0.01,
                  doc="Higher keeps fewer lines; from 1 on, none."),
        Parameter(name="distance", label="Distance threshold", default=0.1, minimum=0.01, maximum=20.0, step=0.01,
                  unit="px", doc="Lines that are not longer are dropped, in pixels of half the resolution."),
    ),
    networks=(MLSD_NETWORK,),
    batchable=True,
)  # fmt: skip
