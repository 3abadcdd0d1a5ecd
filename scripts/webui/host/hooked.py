"""Our stack inside the WebUI's own U-Net, by module hooks: no forward is replaced or copied.

The U-Nets of SD 1.x, SD 2.x (ldm) and SDXL (sgm) have one shape: `input_blocks`, `middle_block`, `output_blocks`. A
hook before the U-Net asks the stack for the effects of this evaluation and attaches them to the blocks; a hook behind
it takes them away again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from ....core.attach import Locate, Patches, Site, Value, attach, attention_site, record
from ....core.base import Base
from ....core.effects import Effects
from ....core.errors import HostError
from ....core.points import Block, Part, Point
from ....core.rows import take_rows

# (latents, timestep, context, vector condition or None) of one call of the U-Net -> what is added to it
Evaluate = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Effects]
# (latents, timestep, answer) of one call of the U-Net -> the answer as it should be
Finish = Callable[[Tensor, Tensor, Tensor], Tensor]

KEYS = "attn2.to_k.weight"  # a layer whose inputs are the prompt's tokens
INPUTS = ("x", "timesteps", "context", "y")  # of the U-Net's forward, in order


def base_of(unet: Any) -> Base:
    """Return the widths of an ldm or sgm U-Net that control models must share."""
    levels, layers = unet.channel_mult, unet.num_res_blocks
    if isinstance(layers, int):
        layers = [layers] * len(levels)
    blocks = [unet.model_channels]
    for level, (factor, count) in enumerate(zip(levels, layers, strict=True)):
        blocks += [factor * unet.model_channels] * (count + (level < len(levels) - 1))
    context = next((value.shape[1] for name, value in unet.named_parameters() if name.endswith(KEYS)), None)
    label = unet.label_emb[0][0].in_features if isinstance(getattr(unet, "label_emb", None), nn.Sequential) else 0
    return Base(context=context, label=label, blocks=tuple(blocks))


def locate_in(unet: Any) -> Locate:
    """Return where the points of an ldm or sgm U-Net are."""
    widths = base_of(unet).blocks or ()
    blocks = {Block.INPUT: unet.input_blocks, Block.MIDDLE: [unet.middle_block], Block.OUTPUT: unet.output_blocks}

    def locate(point: Point) -> Site:
        if point.part is Part.SKIP:
            decoder = unet.output_blocks[len(unet.output_blocks) - 1 - point.index]
            return Site(decoder, Value.LAST_CHANNELS, widths[point.index])
        block = blocks[point.block][point.index]
        if point.part is Part.STREAM:
            return Site(block, Value.OUTPUT)
        transformer = next(layer for layer in block if hasattr(layer, "transformer_blocks"))
        return attention_site(transformer.transformer_blocks[point.depth], point.part)

    return locate


class Injection:
    """Hooks on one U-Net for as long as its `with` lasts.

    finish: changes the U-Net's answer.
    """

    def __init__(self, unet: Any, evaluate: Evaluate, finish: Finish | None = None) -> None:
        if not hasattr(unet, "output_blocks"):
            raise HostError(f"the U-Net is a {type(unet).__name__}, expected one with input, middle and output blocks")
        self.unet = unet
        self._evaluate, self._finish = evaluate, finish
        self._given: dict[str, Any] | None = None
        self._patches = Patches()  # as long as the injection
        self._attached = Patches()  # as long as one evaluation
        self._alone = False

    def __enter__(self) -> Injection:
        self._patches.hook(self.unet.register_forward_pre_hook(self._before, with_kwargs=True))
        self._patches.hook(self.unet.register_forward_hook(self._after, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._attached.eject()
        self._patches.eject()

    def evaluate_alone(self, x: Tensor, rows: tuple[int, ...], points: Collection[Point]) -> dict[Point, Tensor]:
        """Evaluate the U-Net without effects on other latents, with these rows' prompts: `Step.evaluate`."""
        assert self._given is not None
        given = {name: value if value is None else take_rows(value, rows) for name, value in self._given.items()}
        given |= {"x": x}
        found: dict[Point, Tensor] = {}
        self._alone = True
        try:
            with Patches() as patches:
                record(patches, points, locate_in(self.unet), found)
                self.unet(**{name: value for name, value in given.items() if value is not None})
        finally:
            self._alone = False
        return found

    def _before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._alone:
            return args, kwargs
        given = dict(zip(INPUTS, args, strict=False)) | kwargs
        self._given = {name: given.get(name) for name in INPUTS}
        effects = self._evaluate(given["x"], given["timesteps"], given["context"], given.get("y"))
        attach(self._attached, effects, locate_in(unet))
        tokens = [token for token in effects.tokens if token is not None]
        if not tokens:
            return args, kwargs
        given["context"] = torch.cat([given["context"], *tokens], dim=1)
        return (given.pop("x"),), given

    def _after(self, _unet: nn.Module, _args: object, output: Tensor | None) -> Tensor | None:
        """Take this evaluation's effects away; also called when the U-Net has failed, without an output."""
        if self._alone:
            return None
        given, self._given = self._given, None
        self._attached.eject()
        if self._finish is None or given is None or output is None:
            return None
        return self._finish(given["x"], given["timesteps"], output)
