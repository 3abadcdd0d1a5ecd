"""IP-Adapter: tokens of what an image encoder sees, and keys and values for them beside the prompt's (Ye et al. 2023).

As the authors' `tutorial_train.py` begins: the projections of each cross-attention start as copies of the base's own,
the projection of the embedding from random weights. A picture's hint is the picture itself, seen by the encoder that
`--hint` names; a twentieth of the prompts, of the pictures, and of both are left out (section 4.1.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.embedding import Embedding, Values
from ...core.errors import ScheduleError, UnsupportedModelError
from ...models.families.ip_adapter.family import ENCODERS, FAMILY
from ...models.families.ip_adapter.model import IPAdapter, Pair
from ...models.families.ip_adapter.projections import PerceiverAttention, Plain
from ...models.layers import STANDARD
from ..settings import Settings
from .copies import settings_of
from .recipe import Recipe

TOKENS = 4  # of a plain adapter
CROSS = ".attn2.processor"  # in diffusers' names of attention


class IPAdapterRecipe(Recipe):
    """Plain adapters, from random weights; those of hidden states (plus, full-face) go on from a file."""

    family, rate = FAMILY, 1e-4
    empty_prompts, empty_hints = 0.1, 0.1
    reads_embeddings = True
    blocks = (Plain, PerceiverAttention)

    def create(self, unet: Any, settings: Settings) -> IPAdapter:
        layers = {str(2 * i + 1): each for i, each in enumerate(_cross_attentions(unet))}  # as published files count
        context = unet.config["cross_attention_dim"]
        projection = Plain(_width(settings.hints.embedding), context, TOKENS, STANDARD)
        widths = {number: len(each.to_k.weight) for number, each in layers.items()}
        network = IPAdapter(projection, widths, context, STANDARD).to(torch.float32)
        for number, layer in layers.items():
            pair = network.ip_adapter[number]
            assert isinstance(pair, Pair)
            pair.to_k_ip.load_state_dict({"weight": layer.to_k.weight})
            pair.to_v_ip.load_state_dict({"weight": layer.to_v.weight})
        return network

    def continued(self, path: Path, unet: Any, settings: Settings) -> nn.Module:
        network = super().continued(path, unet, settings)
        assert isinstance(network, IPAdapter)
        own = [len(each.to_k_ip.weight) for each in network.ip_adapter.children() if isinstance(each, Pair)]
        found = [len(each.to_k.weight) for each in _cross_attentions(unet)]
        if own != found:
            raise UnsupportedModelError(
                f"'{path.name}' has keys for {len(own)} cross-attentions of the widths {_said(own)}, the base has "
                f"{len(found)} of {_said(found)}: start from a file of this base"
            )
        return network

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return {name: each for name, each in settings_of(unet).items() if name != "norm_groups"}

    def without_hint(self, network: nn.Module, hint: Tensor) -> Tensor:
        assert isinstance(network, IPAdapter)
        if isinstance(network.image_proj, Plain):
            return torch.zeros_like(hint)
        grey = hint.chunk(2, dim=-1)[1]  # hidden states have those of a grey picture beside them
        return torch.cat([grey, grey], dim=-1)


def _said(widths: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(set(widths))))


def _cross_attentions(unet: Any) -> Iterator[Any]:
    """Yield the cross-attentions of a U-Net in the order of published files: encoder, decoder, middle."""
    for name in unet.attn_processors:
        if name.endswith(CROSS):
            yield unet.get_submodule(name.removesuffix(".processor"))


def _width(embedding: Embedding | None) -> int:
    """Return how wide an encoder's image embedding is. ScheduleError for one that starts no adapter."""
    widths = {Embedding(encoder, Values.IMAGE): width for width, encoder in ENCODERS.items()}
    if embedding not in widths:
        raise ScheduleError(
            f"--hint gives {embedding or 'pictures'}, expected an image embedding, such as that of clip_h: an adapter "
            "of hidden states goes on from a file, --start FILE"
        )
    return widths[embedding]
