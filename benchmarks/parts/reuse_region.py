"""What it would save, and lose, to compute a unit on the part of the picture where its mask acts.

Convolutions, attention and normalisation see the rest of the picture too, so that a part alone gives other residuals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from controlstack.core.control import Prepared, Prompt
from controlstack.core.network.points import Point
from controlstack.core.reuse.said import Level, Reuse
from controlstack.core.step import Step
from controlstack.core.unit import ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel
from controlstack.pipelines.tiny_world import SIDE
from torch import Tensor
from torch.nn.functional import pad

from .reuse_loss import Images, World, difference

LATENT = 8  # pixels of a latent's side
WHOLE = SIDE // LATENT  # latents of a picture's side


class Box(NamedTuple):
    """A part of the latents: from `top` to before `bottom`, from `left` to before `right`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def mask(self) -> Tensor:
        """Return the mask [1, 1, H, W] of this part in pixels."""
        mask = torch.zeros(1, 1, SIDE, SIDE)
        mask[..., self.top * LATENT : self.bottom * LATENT, self.left * LATENT : self.right * LATENT] = 1
        return mask

    def cut(self, images: Images) -> Images:
        """Return this part of pictures [N, H, W, 3]."""
        rows, columns = (slice(LATENT * a, LATENT * b) for a, b in ((self.top, self.bottom), (self.left, self.right)))
        return images[:, rows, columns]

    @property
    def share(self) -> float:
        """Return what part of the picture it is."""
        return (self.bottom - self.top) * (self.right - self.left) / WHOLE**2


HALF, QUARTER = WHOLE // 2, WHOLE // 4
PARTS = {  # where the mask acts, and what is computed; halves, so that the deepest maps have whole pixels
    "a quarter": (Box(0, HALF, 0, HALF), Box(0, HALF, 0, HALF)),
    "a half": (Box(0, WHOLE, 0, HALF), Box(0, WHOLE, 0, HALF)),
    "a quarter, with a margin as wide": (Box(0, WHOLE, 0, QUARTER), Box(0, WHOLE, 0, HALF)),
}


class Cropped(ControlNetModel):
    """A ControlNet that computes a part of the picture, and adds nothing elsewhere."""

    def __init__(self, model: ControlNetModel, box: Box) -> None:
        super().__init__(model.network, name=model.name, pool=model.pool, bgr=model.bgr)
        self._box = box

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        """Yield the part's residuals, with zeros around them."""
        height, (top, bottom, left, right) = step.x.shape[-2], self._box
        features, *rest = prepared
        part = replace(step, x=step.x[..., top:bottom, left:right])
        for point, found in super().__call__(part, (features[..., top:bottom, left:right], *rest), prompt, points):
            scale = found.shape[-2] / (bottom - top)  # of this point's map to the latents
            side = round(height * scale)
            above, before = round(top * scale), round(left * scale)
            yield point, pad(found, (before, side - before - found.shape[-1], above, side - above - found.shape[-2]))


def regions(world: World, count: int, sampler: str) -> Iterator[dict[str, Any]]:
    """Yield for each part and control how far the pictures under the mask are from those of the exact unit."""
    for name, (acts, computed) in PARTS.items():
        for kind, model in world.controls.items():
            hint = world.hint(kind)
            exact = ControlUnit(model=model, hint=hint, mask=acts.mask)
            ways = {
                "cropped": replace(exact, model=Cropped(model, computed)),
                "strong": replace(exact, reuse=Reuse(level=Level.STRONG)),
                "none": replace(exact, weight=0.0),
            }
            wanted = acts.cut(world.images([exact], count, sampler))
            found: dict[str, Any] = {"part": name, "control": kind, "cost": computed.share}
            for way, unit in ways.items():
                value, noise = difference(acts.cut(world.images([unit], count, sampler)), wanted)
                found |= {way: value, f"{way}_noise": noise}
            yield found


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for the docs, in %."""
    ways = ("cropped", "strong", "none")
    lines = ["| mask | control | part that is computed | it alone | `strong` instead | no unit |", "|---" * 6 + "|"]
    for row in rows:
        cells = (f" {100 * row[way]:.1f} ± {100 * row[f'{way}_noise']:.1f} |" for way in ways)
        lines.append(f"| {row['part']} | {row['control']} | {row['cost']:g} |" + "".join(cells))
    return "\n".join(lines)
