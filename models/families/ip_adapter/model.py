"""The adapter as the stack sees it: keys and values of the picture, computed once, and attention over them.

    out = W_out (Attention(q, K_text, V_text) + weight * Attention(q, W_k tokens, W_v tokens)) + b_out

The second term stands at the cross-attention's heads, before its output projection, with the base's own queries. For
the rows of the negative prompt the tokens are those of no picture, as the authors' program makes them: of an image
embedding of zeros, or of what the encoder sees in a grey picture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ....core.control import ControlModel, HintSpace, Prepared, Prompt
from ....core.embedding import Embedding, Encoder, Values
from ....core.errors import UnitError
from ....core.network.base import Base
from ....core.network.effects import Effect, Shift
from ....core.network.points import Point
from ....core.network.rows import by_row
from ....core.options import Option
from ....core.step import Step
from ...layers import Kit
from .layers import LINEAR, WEIGHT_TYPES, computed, factors, transformers_of

WEIGHT_TYPE, PICTURES = "weight_type", "pictures"
EACH, MEAN, BESIDE = "each", "mean", "beside"
OFFERS = (
    Option(
        name=WEIGHT_TYPE,
        label="Weight type",
        meaning="how the weight is spread over the layers of the base network",
        default=LINEAR,
        words=dict.fromkeys(WEIGHT_TYPES, ()),
    ),
    Option(
        name=PICTURES,
        label="Several pictures",
        meaning="what several pictures of one unit mean: one for each picture that is drawn, the mean of their tokens, "
        "or all tokens beside each other",
        default=EACH,
        words={EACH: (), MEAN: ("average",), BESIDE: ("concat",)},
    ),
)
STRUCTURE = Option(
    name="structure",
    label="Face structure",
    meaning="FaceID plusv2: how much of what CLIP sees of the face is added to who it is",
    default=1.0,
    least=0.0,
    most=5.0,
)
PER_LAYER = 4  # tensors that are kept of each layer: keys and values of the picture, and of none


class Pair(nn.Module):
    """The projections of the picture's tokens to keys and values of one cross-attention."""

    def __init__(self, width: int, context: int, kit: Kit) -> None:
        super().__init__()
        self.to_k_ip = kit.ops.Linear(context, width, bias=False)
        self.to_v_ip = kit.ops.Linear(context, width, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


class IPAdapter(nn.Module):
    """The network of a file: `image_proj` makes tokens, each module of `ip_adapter` projects them for one layer."""

    def __init__(self, projection: nn.Module, widths: Mapping[str, int], context: int, kit: Kit) -> None:
        """widths: of the layers, by the file's numbers."""
        super().__init__()
        self.attention = kit.attention
        self.image_proj = projection
        self.ip_adapter = nn.ModuleDict({number: Pair(width, context, kit) for number, width in widths.items()})
        self.lora: Mapping[str, Tensor] = {}  # what the file holds for the base model, which is no part of the network


class IPAdapterModel(ControlModel):
    """An adapter as the stack sees it."""

    network: IPAdapter
    hint_space = HintSpace.EMBEDDING

    def __init__(
        self,
        network: IPAdapter,
        *,
        name: str,
        context: int,
        heads: Mapping[Point, int],
        embedding: Embedding,
        width: int,
        beside: bool | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Show a network to the stack.

        heads: of each cross-attention, in the file's order. width: of what the encoder hands on. beside: of a FaceID
        plus, whether the face's own tokens stay; None for all others.
        """
        self.network, self.name, self.base = network, name, Base(context=context)
        self.beside = beside
        self.offers = (*OFFERS, STRUCTURE) if beside else OFFERS
        self.gives_tokens = embedding.encoder is Encoder.ANTELOPE
        self.points = computed(tuple(heads))
        self.soft_weights = (1.0,) * len(self.points)
        self.embedding, self._heads = embedding, heads
        self._states = embedding.values in (Values.STATES, Values.FACE_STATES)
        self.hint_channels = 2 * width if self._states else width
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        pairs = dict(zip(heads, network.ip_adapter.values(), strict=True))
        self._pairs = tuple(cast(Pair, pairs[point]) for point in self.points)

    def bind(self, options: Mapping[str, object]) -> ControlModel:
        """Return the same told these options."""
        bound = super().bind(options)
        bound.joins_hints = bound.options.get(PICTURES, EACH) != EACH
        return bound

    @property
    def block_count(self) -> int:
        """Return how many transformers it acts on, as sd-webui-controlnet counts: 16 for SD 1.x, 11 for SDXL."""
        return len(transformers_of(self.points))

    def spread(self, weights: tuple[float, ...]) -> tuple[float, ...]:
        """Return the weight of each point's transformer; UnitError for another number of weights."""
        blocks = transformers_of(self.points)
        if len(weights) != len(blocks):
            raise UnitError(f"'{self.name}' has {len(blocks)} blocks, got {len(weights)} block weights")
        by_block = dict(zip(blocks, weights, strict=True))
        return tuple(by_block[point.block, point.index] for point in self.points)

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute keys and values of each point, of the picture's tokens and of no picture's: each [N, T, width].

        hint: [N, T, D], of which hidden states have those of a grey picture beside them, [N, T, 2 D].
        """
        tokens, nothing = self.tokens(hint)
        return tuple(each for pair in self._pairs for each in (*pair(tokens), *pair(nothing)))

    def tokens(self, hint: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of pictures and those of no picture, each [N or 1, T, context]."""
        seen, none = (self._joined(self._projected(each)) for each in self._halves(hint.to(self.dtype)))
        return seen, none

    def _projected(self, seen: Tensor) -> Tensor:
        if self.beside is None:
            return self.network.image_proj(seen)
        structure = float(self.options.get(STRUCTURE.name, STRUCTURE.default))
        return self.network.image_proj(seen, beside=self.beside, structure=structure)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield the attention of each wanted point over the picture's tokens."""
        counts = factors(str(self.options.get(WEIGHT_TYPE, LINEAR)), self.points)
        for index, point in enumerate(self.points):
            if point in points and counts[point]:
                kept = prepared[PER_LAYER * index : PER_LAYER * (index + 1)]
                yield point, Shift(self._attending(step.cond, kept, self._heads[point], counts[point]))

    def _attending(self, cond: tuple[bool, ...], kept: Sequence[Tensor], heads: int, factor: float) -> Any:
        def attend(q: Tensor) -> Tensor:
            k, v = by_row(cond, kept[0], kept[2]), by_row(cond, kept[1], kept[3])
            seen = self.network.attention(q.to(self.dtype), k, v, heads)
            return seen if factor == 1 else seen * factor

        return attend

    def _halves(self, hint: Tensor) -> tuple[Tensor, Tensor]:
        if not self._states:
            return hint, torch.zeros_like(hint)
        seen, none = hint.chunk(2, dim=-1)
        return seen, none

    def _joined(self, tokens: Tensor) -> Tensor:
        """Return the tokens [N, T, context] of several pictures as the unit means them."""
        pictures = self.options.get(PICTURES, EACH)
        if pictures == MEAN:
            return tokens.mean(dim=0, keepdim=True)
        return tokens.flatten(0, 1)[None] if pictures == BESIDE else tokens
