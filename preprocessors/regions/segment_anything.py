"""Regions without names by SAM 2, through transformers.

The picture is asked at a grid of points what lies there. Of the answers those are kept that the network trusts, whose
border does not depend on the threshold, and that no better one covers; so does the automatic mask generator of its
authors. Source: Ravi et al., SAM 2: Segment anything in images and videos, 2024.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch and transformers declare some functions incompletely; what they return is declared here instead.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..boxes import best
from ..declaration import Output, Parameter
from ..networks.pretrained import checkpoint, normalised, transformer
from ..perform import Preprocessor
from .mobile_sam import paint

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..resize import Image
else:
    from ..lazy import np

TRUSTED, STABLE = 0.8, 0.95  # least score, and least share of its area that a mask keeps at a stricter threshold
STRICTER = 1.0  # logits above and below the threshold at which areas are compared
OVERLAP = 0.7  # share of union from which two boxes are one
AT_ONCE = 64  # points that are asked together


def segment(image: Image, network: Any, points: int, seed: int) -> Image:
    """Return the regions around a grid of points, [H, W, 3], small ones on top of large ones."""
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        masks = kept(*_answers(image, network, points))
        large = [
            functional.interpolate(mask[None, None], image.shape[:2], mode="bilinear", align_corners=False)[0, 0] > 0
            for mask in masks
        ]
    return paint([mask.cpu().numpy() for mask in large], (image.shape[0], image.shape[1]), seed)


def kept(masks: Tensor, scores: Tensor) -> Tensor:
    """Return those of logits [N, h, w] with scores [N] that are trusted, stable and the best of their place."""
    inside = (masks > STRICTER).sum(dim=(1, 2)).float()
    around = (masks > -STRICTER).sum(dim=(1, 2)).float()
    good = (scores > TRUSTED) & (inside >= STABLE * around) & ((masks > 0).flatten(1).any(dim=1))
    masks, scores = masks[good], scores[good]
    corners = np.array([_corners((mask > 0).cpu().numpy()) for mask in masks], np.float64).reshape(-1, 4)
    return masks[best(corners, scores.float().cpu().numpy(), OVERLAP).tolist()]


def _answers(image: Image, network: Any, points: int) -> tuple[Tensor, Tensor]:
    """Return logits [N, h, w] and scores [N]: three answers for each point."""
    import torch
    from torch.nn import functional

    side = int(network.config.prompt_encoder_config.image_size)
    pixels = normalised(image[None], network)
    square = functional.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    seen = network.get_image_embeddings(square)
    steps = (torch.arange(points, device=square.device) + 0.5) * (side / points)
    grid = torch.cartesian_prod(steps, steps).reshape(-1, 1, 2).flip(-1).to(square.dtype)
    masks: list[Tensor] = []
    scores: list[Tensor] = []
    for part in grid.split(AT_ONCE):
        labels = torch.ones(1, len(part), 1, dtype=torch.long, device=square.device)
        found = network(image_embeddings=seen, input_points=part[None], input_labels=labels, multimask_output=True)
        masks.append(found.pred_masks[0].flatten(0, 1))
        scores.append(found.iou_scores[0].flatten())
    return torch.cat(masks), torch.cat(scores)


def _corners(mask: Any) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


SEG_SAM2 = Preprocessor(
    id="seg_sam2",
    title="Segments (SAM 2)",
    doc="Every region in a colour of its own, without names; borders are finer than MobileSAM's.",
    run=segment,
    output=Output.LABELS,
    polarity="colours mean nothing; what is no region is black",
    aliases=("sam2",),
    control_types=("Segmentation",),
    parameters=(
        Parameter(name="points", label="Points per side", default=32, minimum=1, maximum=64, step=1,
                  doc="The picture is asked at so many points across and down; more find smaller regions."),
    ),
    networks=(
        transformer(
            "sam2", "Sam2Model", checkpoint("facebook/sam2.1-hiera-tiny", "Apache-2.0", megabytes=155), since="4.56",
            memory=8000,
        ),
    ),
    deterministic=False,
    pad=1,  # the network stretches the picture itself
)  # fmt: skip
