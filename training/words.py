"""The words of a training example as its base model reads them: token ids, then the inputs of the U-Net.

SD 1.x and 2.x have one text encoder, whose last layer is the context. SDXL (Podell et al. 2023, sections 2.1 and 2.2)
has two: the context is both of their last but one layers side by side, and a vector condition holds the second one's
pooled text and the sizes of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pipelines.attached import vector_condition

PENULTIMATE = -2  # hidden state that SDXL reads


@dataclass(frozen=True, slots=True)
class Words:
    """What a U-Net reads of words: context [B, T, D], and SDXL's `text_embeds` [B, P] and `time_ids` [B, 6]."""

    context: Tensor
    added: Mapping[str, Tensor] | None = None

    def vector(self, unet: Any) -> Tensor | None:
        """Return the vector condition y [B, A]; None where the base has none."""
        return vector_condition(unet, self.added)


def tokenise(base: Any, prompts: Sequence[str]) -> Tensor:
    """Return token ids [N, E, T] for the base's E text encoders."""
    return torch.stack([_ids(tokenizer, prompts) for tokenizer in _parts(base, "tokenizer")], dim=1)


def emptied(tokens: Tensor, base: Any, drop: Tensor) -> Tensor:
    """Return token ids [B, E, T] with those of the empty prompt in the rows that `drop` [B] names."""
    return torch.where(drop[:, None, None], tokenise(base, [""]), tokens)


@torch.no_grad()
def read_words(base: Any, tokens: Tensor, size: tuple[int, int]) -> Words:
    """Return what a U-Net reads for token ids [B, E, T].

    size: (height, width) of the pictures, which were neither cropped nor scaled.
    """
    encoders = _parts(base, "text_encoder")
    if len(encoders) == 1:
        return Words(encoders[0](tokens[:, 0].to(encoders[0].device))[0])
    outputs = [
        encoder(tokens[:, k].to(encoder.device), output_hidden_states=True) for k, encoder in enumerate(encoders)
    ]
    context = torch.cat([output.hidden_states[PENULTIMATE] for output in outputs], dim=-1)
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=context.dtype, device=context.device)  # own, corner, wanted
    return Words(context, {"text_embeds": outputs[-1][0], "time_ids": sizes.repeat(len(tokens), 1)})


def _parts(base: Any, name: str) -> list[Any]:
    """Return a part of the pipeline, and SDXL's second one."""
    second = getattr(base, f"{name}_2", None)
    return [getattr(base, name)] if second is None else [getattr(base, name), second]


def _ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    ids = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return torch.from_numpy(np.array(ids["input_ids"]))
