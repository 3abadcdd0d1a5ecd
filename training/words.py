"""The words of training examples as their base model reads them: prompts -> the inputs of its U-Net.

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


def words_of(encoded: Mapping[str, Tensor], size: tuple[int, int], device: torch.device) -> Words:
    """Return what a U-Net reads, from encoded prompts [B, ...].

    size: (height, width) of the pictures, which count as neither cropped nor scaled.
    """
    context = encoded["context"].to(device)
    if "pooled" not in encoded:
        return Words(context)
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=context.dtype, device=device)  # own, corner, wanted
    return Words(context, {"text_embeds": encoded["pooled"].to(device), "time_ids": sizes.repeat(len(context), 1)})


def emptied(encoded: Mapping[str, Tensor], empty: Mapping[str, Tensor], drop: Tensor) -> dict[str, Tensor]:
    """Return encoded prompts [B, ...] with the empty one in the rows that `drop` [B] names."""
    return {
        name: torch.where(drop.view(-1, *(1,) * each.ndim), each[None], encoded[name]) for name, each in empty.items()
    }


@torch.no_grad()
def encode_words(base: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Return `context` [N, T, D] of prompts, and SDXL's `pooled` [N, P], where the base computes."""
    encoders = _parts(base, "text_encoder")
    tokens = tokenise(base, prompts)
    if len(encoders) == 1:
        return {"context": encoders[0](tokens[:, 0].to(encoders[0].device))[0]}
    outputs = [
        encoder(tokens[:, k].to(encoder.device), output_hidden_states=True) for k, encoder in enumerate(encoders)
    ]
    context = torch.cat([output.hidden_states[PENULTIMATE] for output in outputs], dim=-1)
    return {"context": context, "pooled": outputs[-1][0]}


def tokenise(base: Any, prompts: Sequence[str]) -> Tensor:
    """Return token ids [N, E, T] for the base's E text encoders."""
    return torch.stack([_ids(tokenizer, prompts) for tokenizer in _parts(base, "tokenizer")], dim=1)


def _parts(base: Any, name: str) -> list[Any]:
    """Return a part of the pipeline, and SDXL's second one."""
    second = getattr(base, f"{name}_2", None)
    return [getattr(base, name)] if second is None else [getattr(base, name), second]


def _ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    ids = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return torch.from_numpy(np.array(ids["input_ids"]))
