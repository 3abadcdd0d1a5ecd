"""Revision: a picture in place of SDXL's pooled prompt, without any weights of its own.

Stability AI, "Revision" (SDXL, 2023), as in sd-webui-controlnet (`scripts/hook.py`) and, but for the noise schedule, in
ComfyUI's unCLIPConditioning. What CLIP ViT-bigG/14 sees in a picture has the width of the pooled prompt, which the same
encoder's text side makes. With the units' weights w and embeddings e, the first values of the vector condition y become

    cond rows     sum of w * z,    z = sqrt(a_k) * e + sqrt(1 - a_k) * noise,    k = min(int(1000 * augmentation), 999)
    uncond rows   0

where a_k is the share of the signal after k + 1 steps of the noise schedule, "scaled linear" from 0.0001 to 0.02.
Without augmentation z = e: both programs add the first step's noise there, 1 % of it, anew in each run. Our noise is
always the same, so a picture can be drawn again. The variant that ignores the prompt makes its tokens zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

import torch
from torch import Tensor, nn

from ...core.control import ControlModel, HintSpace, Prepared, Prompt
from ...core.errors import IncompatibleModelError
from ...core.network.base import Base
from ...core.network.effects import Effect
from ...core.network.points import VECTOR, Point
from ...core.step import Step
from ..kinds.revisions import EMBEDDING, IGNORE_PROMPT, NOISE

LABEL = "label_emb.0.0.weight"  # of the base U-Net: the layer that reads the vector condition
WIDTH = 1280  # of the pooled prompt of SDXL
STEPS, FIRST_BETA, LAST_BETA = 1000, 0.0001, 0.02
SEED = 0
ANY = 0  # as a hint's width


class RevisionModel(ControlModel):
    """Revision as the stack sees it; hints are image embeddings, one token each."""

    hint_space, embedding = HintSpace.EMBEDDING, EMBEDDING
    points, soft_weights = (VECTOR,), (1.0,)
    offers = (NOISE,)

    def __init__(self, kind: str, label: int) -> None:
        """kind: one of `kinds.revisions.REVISIONS`. label: width of the base's vector condition; 0 where it has none.

        A base whose vector condition is narrower than SDXL's pooled prompt takes embeddings of any width.
        """
        self.name, self.network, self.base = kind, nn.Module(), Base()
        if not label:
            raise _no_vector(kind)
        self.hint_channels = WIDTH if label >= WIDTH else ANY
        self.silences_prompt = kind == IGNORE_PROMPT

    def check_base(self, base: Base) -> None:
        """Raise IncompatibleModelError for a base model without a vector condition."""
        if base.label == 0:
            raise _no_vector(self.name)

    def prepare(self, hint: Tensor) -> Prepared:
        """Mix noise into image embeddings [N, 1, D] -> [N, D]."""
        return (augmented(hint[:, 0].float(), float(self.options.get(NOISE.name, NOISE.default))),)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield what stands in place of the pooled prompt: the picture's for the cond rows, zeros for the others."""
        if step.y is None:
            raise _no_vector(self.name)
        shown = step.x.new_tensor([float(cond) for cond in step.cond], dtype=torch.float32)
        yield VECTOR, prepared[0].to(step.x.device) * shown[:, None]


def augmented(embedding: Tensor, amount: float) -> Tensor:
    """Return embeddings [N, D] with an amount of noise, 0 to 1."""
    if not amount:
        return embedding
    signal = _signal()[min(int(amount * STEPS), STEPS - 1)].to(embedding)
    noise = torch.randn(embedding.shape[1:], generator=torch.Generator().manual_seed(SEED)).to(embedding)
    return signal.sqrt() * embedding + (1 - signal).sqrt() * noise


@cache
def _signal() -> Tensor:
    """Return the share of the signal's variance after each step of the noise schedule."""
    betas = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, STEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def _no_vector(name: str) -> IncompatibleModelError:
    return IncompatibleModelError(
        f"'{name}' acts on the vector condition of SDXL, and the loaded base model has none: load a base model of the "
        "SDXL kind, or use an IP-Adapter"
    )
