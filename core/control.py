"""What a control model promises: `ControlModel`, and what it hands to the stack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

from .base import LATENT, Base
from .effects import Effect, WeightDelta
from .embedding import Embedding
from .errors import UnitError
from .points import Point
from .step import Step

Prepared = tuple[Tensor, ...]  # what a hint became; each [N, ...]
Prompt = tuple[Tensor, ...]  # what a context became; each [B, ...]


class HintSpace(Enum):
    """What a control model reads."""

    PICTURE = "picture"  # RGB in 0..1, [N, C, H, W]
    LATENTS = "latents"  # of the picture, by the base model's autoencoder, [N, C, h, w]
    EMBEDDING = "embedding"  # what an encoder saw in a picture, [N, T, D]


class ControlModel(Protocol):
    """A control network, stateless: all that a run can reuse is handed back to it by the stack.

    Families inherit the usual answers from here. `name` is what the user calls it; `network` holds the weights, for the
    host to keep where they can compute, and units that share it are computed as one batch.
    """

    name: str
    network: Any  # nn.Module; for controls of a host, whatever holds their weights
    base: Base
    points: tuple[Point, ...]  # where it acts, in the order in which it computes; block weights follow this order
    soft_weights: tuple[float, ...]  # one factor per point for the modes PROMPT and CONTROL
    hint_space: HintSpace = HintSpace.PICTURE
    hint_channels: int = 3  # C of a picture or of latents, D of an embedding
    embedding: Embedding | None = None  # which embedding, for hints that are one
    hint_scale: int = LATENT  # picture pixels per latent pixel, for hints that are pictures or latents
    cond_only: bool = False  # it acts on the cond rows in every mode
    options: Mapping[str, object] = MappingProxyType({})  # what it is bound to; models that differ are not batched
    source: str = ""  # the file that it was loaded from
    delta: WeightDelta | None = None  # what it changes in the weights of the base network for the whole run

    def bind(self, options: Mapping[str, object]) -> ControlModel:
        """Return this model bound to options, sharing its network; UnitError for one that it does not have."""
        if unknown := [name for name in options if name not in self.options]:
            known = f"it has {', '.join(self.options)}" if self.options else "it has none"
            raise UnitError(f"'{self.name}' has no option '{unknown[0]}': {known}, so leave the option out")
        return self

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute what does not depend on the step: hint [N, C, scale * h, scale * w] -> tensors [N, ...].

        Of latents and embeddings see `HintSpace`.
        """
        return (hint,)

    def encode(self, context: Tensor) -> Prompt:
        """Compute what depends on the prompt alone: context [B, T, D] -> tensors [B, ...]."""
        return ()

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield the effect at each wanted point, in order, as soon as it is known, and stop after the last one.

        `prepared` tensors have 1 or B rows. A tensor is added at its point, [B, C, h', w'] or, where it is the same for
        all rows, [1, C, h', w']; it may be a cached tensor, so nobody changes it in place. A `Shift` computes what is
        added when the base network gets there.
        """
        ...
