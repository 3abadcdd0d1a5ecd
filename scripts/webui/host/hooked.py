"""Our stack inside the WebUI's own U-Net, by module hooks: no forward is replaced or copied.

The U-Nets of SD 1.x, SD 2.x (ldm) and SDXL (sgm) have one shape: `input_blocks`, `middle_block`, `output_blocks`. A
hook before the U-Net asks the stack for the residuals of this evaluation, and hooks on the blocks add them: to what an
input block or the middle block returns, and to the skip, which is the second half of what an output block receives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from ....core.base import Base
from ....core.errors import HostError
from ....core.patch import Patches
from ....core.residuals import Residuals
from ....core.unit import Place, Slot

# (latents, timestep, context, vector condition or None) of one call of the U-Net -> what is added to it
Evaluate = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Residuals]
# (latents, timestep, answer) of one call of the U-Net -> the answer as it should be
Finish = Callable[[Tensor, Tensor, Tensor], Tensor]

KEYS = "attn2.to_k.weight"  # a layer whose inputs are the prompt's tokens


def base_of(unet: Any) -> Base:
    """The widths of an ldm or sgm U-Net that control models must share."""
    levels, layers = unet.channel_mult, unet.num_res_blocks
    if isinstance(layers, int):
        layers = [layers] * len(levels)
    blocks = [unet.model_channels]
    for level, (factor, count) in enumerate(zip(levels, layers, strict=True)):
        blocks += [factor * unet.model_channels] * (count + (level < len(levels) - 1))
    context = next((value.shape[1] for name, value in unet.named_parameters() if name.endswith(KEYS)), None)
    label = unet.label_emb[0][0].in_features if isinstance(getattr(unet, "label_emb", None), nn.Sequential) else 0
    return Base(context=context, label=label, blocks=tuple(blocks))


class Injection:
    """Hooks on one U-Net for as long as its `with` lasts.

    slots: all places that the units of the run may write to; other blocks get no hook. finish: changes the U-Net's
    answer.
    """

    def __init__(self, unet: Any, evaluate: Evaluate, slots: Collection[Slot], finish: Finish | None = None) -> None:
        if not hasattr(unet, "output_blocks"):
            raise HostError(f"the U-Net is a {type(unet).__name__}, expected one with input, middle and output blocks")
        self.unet = unet
        self._evaluate, self._finish, self._slots = evaluate, finish, frozenset(slots)
        self._given: tuple[Tensor, Tensor] | None = None
        self._residuals = Residuals()
        self._patches = Patches()

    def __enter__(self) -> Injection:
        unet, hook = self.unet, self._patches.hook
        hook(unet.register_forward_pre_hook(self._before, with_kwargs=True))
        hook(unet.register_forward_hook(self._after, always_call=True))
        last = len(unet.output_blocks) - 1
        for slot in self._slots:
            if slot.place is Place.INPUT:
                hook(unet.input_blocks[slot.index].register_forward_hook(self._add_to(slot)))
            elif slot.place is Place.MIDDLE:
                hook(unet.middle_block.register_forward_hook(self._add_to(slot)))
            elif slot.place is Place.OUTPUT:
                hook(unet.output_blocks[last - slot.index].register_forward_pre_hook(self._add_to_skip(slot)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.eject()
        self._residuals = Residuals()

    def _before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = dict(zip(("x", "timesteps", "context", "y"), args, strict=False)) | kwargs
        self._given = (given["x"], given["timesteps"])
        self._residuals = self._evaluate(given["x"], given["timesteps"], given["context"], given.get("y"))
        tokens = [token for token in self._residuals.context if token is not None]
        if not tokens:
            return args, kwargs
        given["context"] = torch.cat([given["context"], *tokens], dim=1)
        return (given.pop("x"),), given

    def _after(self, _unet: nn.Module, _args: object, output: Tensor | None) -> Tensor | None:
        """Also called when the U-Net has failed, without an output."""
        given, self._given = self._given, None
        self._residuals = Residuals()
        if self._finish is None or given is None or output is None:
            return None
        return self._finish(*given, output)

    def _add_to(self, slot: Slot) -> Callable[..., Tensor | None]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor | None:
            residual = self._of(slot)
            return None if residual is None else output + residual

        return hook

    def _add_to_skip(self, slot: Slot) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            residual = self._of(slot)
            if residual is not None:  # the decoder has just joined its own stream and the skip into a fresh tensor
                args[0][:, -residual.shape[1] :].add_(residual)

        return hook

    def _of(self, slot: Slot) -> Tensor | None:
        entries = {
            Place.INPUT: self._residuals.input,
            Place.MIDDLE: self._residuals.middle,
            Place.OUTPUT: self._residuals.output,
        }[slot.place]
        return entries[slot.index] if slot.index < len(entries) else None
