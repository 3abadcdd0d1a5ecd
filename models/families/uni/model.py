"""Uni-ControlNet as the stack sees it: a ControlNet of several hints, or tokens of a picture's content.

The tokens stand beside the prompt, times the weight, for the base network and for the local adapter; the rows of the
negative prompt have those of an embedding of zeros (`models/uni_controlnet.py`, `src/test/test.py` of
ShihaoZhaoZSH/Uni-ControlNet).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor

from ....core.control import ControlModel, HintSpace, Prepared, Prompt
from ....core.errors import UnitError
from ....core.network.points import PROMPT, Point
from ....core.network.rows import by_row
from ....core.step import Step
from ...kinds.unions import AUTOMATIC, OPTION
from ...kinds.unis import CONTENT, EMBEDDING, KINDS, NAMES, offers
from ..controlnet.model import ControlNetModel
from .network import UniNet

COLOURS = 3  # channels of one kind of hint


class UniModel(ControlNetModel):
    """A Uni-ControlNet as the stack sees it. Told `content`, it is its global adapter, otherwise its local one."""

    network: UniNet
    hole = 0.0  # black is what stands where there is no hint
    reads_added = True

    def __init__(self, network: UniNet, *, name: str, dtype: torch.dtype | None = None) -> None:
        super().__init__(network, name=name, dtype=dtype)
        self.offers = offers(content=hasattr(network, "global_adapter"))
        self.hint_channels = len(KINDS) * COLOURS
        self._local = (self.points, self.soft_weights)

    @property
    def kinds(self) -> tuple[tuple[str, float], ...]:
        """Return the kinds of hints that it was told, with their weights."""
        return self.offers[0].weighed(self.options.get(OPTION, AUTOMATIC))

    def bind(self, options: Mapping[str, object]) -> ControlModel:
        """Return the same told these options; the channels of its hint are those of all kinds.

        UnitError for content beside hints of places, since a unit has one hint.
        """
        bound = cast(UniModel, super().bind(options))
        told = [kind for kind, _ in bound.kinds]
        if CONTENT in told and len(told) > 1:
            raise UnitError(
                f"'{self.name}' is told '{bound.options[OPTION]}': content is read by another part of it, so give it a "
                "unit of its own, beside the one with the other kinds"
            )
        bound._become(content=CONTENT in told)
        return bound

    def _become(self, *, content: bool) -> None:
        """Set what the stack asks, for the one adapter or the other."""
        self.reads_added, self.embedding = not content, EMBEDDING if content else None
        self.hint_space = HintSpace.EMBEDDING if content else HintSpace.PICTURE
        self.points, self.soft_weights = ((PROMPT,), (1.0,)) if content else self._local
        self.hints = max(1, len(self.kinds))
        self.hint_channels = self.hints * COLOURS if self.kinds else len(KINDS) * COLOURS
        if content:
            self.hint_channels = self.network.global_adapter.norm1.weight.shape[0]

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the modulations of hints [N, 3 * kinds, 8h, 8w], or tokens of embeddings [N, 1, D] and of none."""
        hint = hint.to(self.dtype)
        if self.hint_space is HintSpace.EMBEDDING:
            return self.network.global_adapter(hint), self.network.global_adapter(torch.zeros_like(hint))
        return self.network.read(self._in_place(hint.clamp(min=self.hole)))

    def _in_place(self, hint: Tensor) -> Tensor:
        """Return the hints [N, 3 or 3 * kinds, H, W] in the channels of their kinds; the others are black.

        Weights of several kinds multiply their hints; a single kind has none here.
        """
        shown = hint.chunk(max(1, hint.shape[1] // COLOURS), dim=1)
        shown = shown * len(self.kinds) if len(shown) == 1 else shown
        stack = hint.new_zeros(len(hint), len(KINDS) * COLOURS, *hint.shape[2:])
        for each, (kind, weight) in zip(shown, self.kinds, strict=True):
            at = NAMES.index(kind) * COLOURS
            stack[:, at : at + COLOURS] = each if len(self.kinds) == 1 or weight == 1 else each * weight
        return stack

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Tensor]]:
        """Yield the residual [B, C, h', w'] of each wanted point, or the tokens [B, T, D] beside the prompt."""
        weight = self.kinds[0][1] if len(self.kinds) == 1 else 1.0
        found = super().__call__(step, prepared, prompt, points)
        if self.hint_space is HintSpace.EMBEDDING:
            found = iter([(PROMPT, by_row(step.cond, *prepared))])
        for point, each in found:
            yield point, each if weight == 1 else each * weight
            del each  # free before the next one is computed
