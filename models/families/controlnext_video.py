"""ControlNeXt for Stable Video Diffusion: its network and its normalisation, which no pipeline here uses yet.

dvlab-research/ControlNeXt, `ControlNeXt-SVD-v2/models`. The layers are those of the network for images, but two of the
convolutions that read the hint have no padding, so a control is a little smaller than an eighth of its hint. The frames
of a video are rows, which share the time. A control enters behind the first halving, past its skip, pooled after it was
normalised, at a fifth. A file's shapes do not tell it from the network for images; its companion does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..family import Shapes
from ..layers import Kit
from .controlnext import ControlNeXt, pooled

EPS = 1e-5  # of the normalisation, `unet_spatio_temporal_condition_controlnext.py`
SHARE = 0.2  # of the control that is added, as there


class VideoControlNeXt(ControlNeXt):
    """hints [B, F, 3, 8h, 8w] and time [B] -> controls [B, F, out, about h, about w]."""

    def __init__(self, shapes: Shapes, kit: Kit) -> None:
        super().__init__(shapes, kit, padding=0)

    def frames(self, hints: Tensor, timestep: Tensor) -> Tensor:
        """Compute the controls of the frames of B videos, all frames of one at its time."""
        count = hints.shape[1]
        made = self(self.stem(hints.flatten(0, 1)), timestep.repeat_interleave(count))
        return made.unflatten(0, hints.shape[:2])


def entering(stream: Tensor, control: Tensor) -> Tensor:
    """Return what is added to a stream [N, C, h, w] of frames under controls [N, C, ...]."""
    deviation, mean = torch.std_mean(control, dim=(1, 2, 3), keepdim=True)
    wanted, centre = torch.std_mean(stream, dim=(1, 2, 3), keepdim=True)
    normalised = (control - mean) * (wanted / (deviation + EPS)) + centre
    return SHARE * pooled(normalised, (stream.shape[-2], stream.shape[-1]))
