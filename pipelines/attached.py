"""Our stack inside a diffusers pipeline: a hook on the U-Net adds what the units say.

The pipeline, its scheduler and the U-Net's forward stay as they are. `inject` returns a context manager; afterwards,
also after an exception or an interrupt, the U-Net has no trace of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.network.attach import (
    Locate,
    Patches,
    Site,
    Value,
    attach,
    attend_with,
    attention_site,
    change_weights,
    record,
)
from ..core.network.base import Base
from ..core.network.effects import Effects
from ..core.network.points import CONDITIONS, MIDDLE, Block, Part, Point
from ..core.network.rows import take_rows
from ..core.schedule import Progress, progress_at
from ..core.stack import ControlStack
from ..core.step import Step
from ..core.unit import ControlUnit
from ..models.naming import to_ldm
from .compiled import Compiled, run_whole_as_written

LAYERS_KEY, WIDTHS_KEY = "layers_per_block", "block_out_channels"


def base_of(unet: Any) -> Base:
    """Return the widths of a diffusers U-Net that control models must share."""
    config = unet.config
    widths, layers = config[WIDTHS_KEY], config[LAYERS_KEY]
    blocks = [widths[0]]
    for level, width in enumerate(widths):
        blocks += [width] * layers
        if level < len(widths) - 1:
            blocks.append(width)  # the halving
    label = config.get("projection_class_embeddings_input_dim") or 0
    return Base(context=config["cross_attention_dim"], label=label, blocks=tuple(blocks))


def check_units(units: Sequence[ControlUnit], unet: Any) -> None:
    """Raise IncompatibleModelError unless every unit's model was made for this base."""
    base = base_of(unet)
    for unit in units:
        unit.model.check_base(base)


def locate_in(unet: Any) -> Locate:
    """Return where the points of a diffusers U-Net are.

    diffusers lays the layers of an ldm block apart: a residual block, a transformer, and in the decoder an upsampler.
    """
    encoder, decoder = _encoder_blocks(unet), _decoder_blocks(unet)
    middle = [*_beside(unet.mid_block.resnets[:1], unet.mid_block.attentions)]
    widths = base_of(unet).blocks or ()
    blocks = {Block.INPUT: encoder, Block.MIDDLE: middle, Block.OUTPUT: decoder}

    def locate(point: Point) -> Site:
        if point.part is Part.SKIP:  # a decoder's residual block receives its stream and the skip as one
            resnet = decoder[len(decoder) - 1 - point.index][0]
            return Site(resnet, Value.LAST_CHANNELS, widths[point.index])
        if point.block is Block.MIDDLE and point.part is Part.STREAM:
            return Site(unet.mid_block, Value.OUTPUT)
        if point.part is Part.ONWARD:
            return Site([*encoder, *middle][point.index + 1][0], Value.INPUT)
        layers = blocks[point.block][point.index]
        if point.part is Part.STREAM:
            return Site(layers[-1], Value.OUTPUT)
        transformer = next(layer for layer in layers if hasattr(layer, "transformer_blocks"))
        return attention_site(transformer.transformer_blocks[point.depth], point.part)

    return locate


def _beside(resnets: Any, attentions: Any) -> Iterator[list[Any]]:
    """Yield the residual blocks of a level, each with its transformer where the level has any."""
    for index, resnet in enumerate(resnets):
        yield [resnet, attentions[index]] if attentions else [resnet]


def _encoder_blocks(unet: Any) -> list[list[Any]]:
    """Return the layers of each input block of ldm: the first convolution, residual blocks, halvings."""
    blocks = [[unet.conv_in]]
    for level in unet.down_blocks:
        blocks += _beside(level.resnets, getattr(level, "attentions", None))
        blocks += [[each] for each in level.downsamplers or ()]
    return blocks


def _decoder_blocks(unet: Any) -> list[list[Any]]:
    """Return the layers of each output block of ldm; the last of a level also enlarges."""
    blocks: list[list[Any]] = []
    for level in unet.up_blocks:
        blocks += _beside(level.resnets, getattr(level, "attentions", None))
        blocks[-1] = [*blocks[-1], *(level.upsamplers or ())]
    return blocks


class Injection:
    """One run of a pipeline: counts the evaluations of its U-Net and translates between diffusers and the stack.

    pictures: rows of the batch that show a picture each; with guidance the U-Net sees the uncond rows before them.
    The stack's changes to weights last as long as the injection.
    """

    def __init__(self, pipeline: Any, stack: ControlStack, pictures: int) -> None:
        self._pipeline, self._stack, self._pictures = pipeline, stack, pictures
        self._patches = Patches()  # as long as the run
        self._attached = Patches()  # as long as one evaluation
        self._sites = locate_in(pipeline.unet)
        self._compiled = Compiled(pipeline.unet)
        self._given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._alone = False
        self._evaluations = 0
        self._timesteps: Any = None  # the scheduler's own tensor, which is another one in each call of the pipeline
        self._times: list[float] = []

    def __enter__(self) -> Injection:
        with ExitStack() as undo:  # where it fails half way
            undo.callback(self._patches.eject)
            if not all(has_argument(point) for unit in self._stack.units for point in unit.model.points):
                run_whole_as_written(self._patches, self._pipeline)
            unet = self._pipeline.unet
            self._compiled.run_as_written(self._patches, unet)  # it gets hooks itself
            if any(unit.model.delta is not None for unit in self._stack.units):
                change_weights(self._patches, self._stack.units, to_ldm(dict(unet.named_parameters())))
            self._patches.hook(unet.register_forward_pre_hook(self._before, with_kwargs=True))
            self._patches.hook(unet.register_forward_hook(self._after, always_call=True))
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._attached.eject()
        self._patches.eject()
        self._stack.close()

    def _before(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._alone:
            return args, kwargs
        self._given = (args, kwargs)
        self._begin_call()
        step = self._step(unet, args[0], args[1], kwargs)
        self._evaluations += 1
        effects = self._stack(step)
        if not effects:
            return args, kwargs
        by_hooks, by_arguments = shared_out(effects)
        attach(self._attached, by_hooks, self._locate)
        return args, {**kwargs, **arguments(unet, by_arguments, kwargs)}

    def _locate(self, point: Point) -> Site:
        """Return where a point is that gets a hook in this evaluation."""
        site = self._sites(point)
        for module in (site.module, site.seen):
            self._compiled.run_as_written(self._attached, module)
        return site

    def _after(self, *_: object) -> None:
        """Take this evaluation's effects away; also called when the U-Net has failed."""
        if not self._alone:
            self._attached.eject()
            self._given = ((), {})

    def _evaluate_alone(self, x: Tensor, rows: tuple[int, ...], points: Collection[Point]) -> dict[Point, Tensor]:
        """Evaluate the U-Net without effects on other latents, with these rows' prompts: `Step.evaluate`."""
        (_, time, *_), kwargs = self._given
        found: dict[Point, Tensor] = {}
        self._alone = True
        try:
            with Patches() as patches:
                record(patches, points, self._locate, found)
                self._pipeline.unet(x, time, **_rows_of(kwargs, rows))
        finally:
            self._alone = False
        return found

    def _step(self, unet: Any, x: Tensor, time: Tensor, kwargs: dict[str, Any]) -> Step:
        rows = len(x)
        return Step(
            x=x,
            timestep=torch.as_tensor(time, device=x.device).expand(rows),
            context=kwargs["encoder_hidden_states"],
            cond=tuple(row >= rows - self._pictures for row in range(rows)),
            progress=self._progress(),
            steps=self._count,
            y=vector_condition(unet, kwargs.get("added_cond_kwargs")),
            pictures=tuple(row % self._pictures for row in range(rows)),
            evaluate=self._evaluate_alone,
            attend=lambda point, x, context: attend_with(self._sites(point).module, x, context),
        )

    def _begin_call(self) -> None:
        """Read the times where a call of the pipeline begins: a value on the device would stall every step."""
        timesteps = self._pipeline.scheduler.timesteps
        if timesteps is not self._timesteps:
            self._timesteps, self._evaluations = timesteps, 0
            self._times = timesteps[-self._pipeline.num_timesteps :].tolist()

    @property
    def _count(self) -> int:
        """Return the number of steps of the run."""
        return -(-len(self._times) // self._pipeline.scheduler.order)

    def _progress(self) -> Progress:
        """Return where the run stands; samplers of second order evaluate each step twice, and both belong to it."""
        scheduler, count = self._pipeline.scheduler, self._count
        at = min(self._evaluations, len(self._times) - 1)
        noise = 1 - self._times[at] / (scheduler.config["num_train_timesteps"] - 1)
        return progress_at(at // scheduler.order, count, noise=min(1.0, max(0.0, noise)))


def shared_out(effects: Effects) -> tuple[Effects, Effects]:
    """Return what hooks add to a diffusers U-Net, and what its own arguments do.

    A shift sees what stands at its point with the tensor of that point. diffusers adds the one behind the middle block
    after any hook, so there the hooks do both.
    """
    middle = MIDDLE in effects.shifts
    by_hooks = Effects(input=effects.input, middle=effects.middle if middle else (), shifts=effects.shifts)
    return by_hooks, replace(effects, input=(), middle=() if middle else effects.middle, shifts={})


def has_argument(point: Point) -> bool:
    """Return whether diffusers' U-Net takes what is added at a point as an argument of its own."""
    return point.part is Part.SKIP or point == MIDDLE or point.block in CONDITIONS


def arguments(unet: Any, effects: Effects, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return skips, middle and conditions as the keyword arguments of `UNet2DConditionModel.forward`.

    These are what diffusers itself adds, before other parts of its forward (FreeU) see them; the rest needs hooks.
    """
    more: dict[str, Any] = {}
    if effects.output or effects.middle:
        count = len(base_of(unet).blocks or ())
        middle = effects.middle[0] if effects.middle else None
        some = next(tensor for tensor in (*effects.output, middle) if tensor is not None)
        nothing = some.new_zeros(())
        skips = (*effects.output, *(None,) * (count - len(effects.output)))
        more["down_block_additional_residuals"] = tuple(nothing if skip is None else skip for skip in skips)
        more["mid_block_additional_residual"] = nothing if middle is None else middle
    tokens = [token for token in effects.tokens if token is not None]
    given: Any = kwargs.get("encoder_hidden_states")  # a tensor wherever units act on the prompt
    prompt = given
    if effects.vector is not None:
        added = kwargs["added_cond_kwargs"]
        more["added_cond_kwargs"] = {**added, "text_embeds": effects.vector.vector(added["text_embeds"])}
        prompt = effects.vector.prompt(prompt)
    if tokens or prompt is not given:
        more["encoder_hidden_states"] = torch.cat([prompt, *tokens], dim=1)
    return more


def _rows_of(values: dict[str, Any], rows: tuple[int, ...]) -> dict[str, Any]:
    """Return a U-Net's keyword arguments for these rows of its batch, also those that lie in dictionaries."""
    cut: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.ndim:
            cut[name] = take_rows(value, rows)
        else:
            cut[name] = _rows_of(value, rows) if isinstance(value, dict) else value
    return cut


def vector_condition(unet: Any, added: Mapping[str, Tensor] | None) -> Tensor | None:
    """Return SDXL's vector condition y [B, A] as the U-Net puts it together: pooled text, then sizes as sinusoids.

    added: `text_embeds` [B, P] and `time_ids` [B, 6]; None, or without them, for other base models, which have none.
    """
    if not added or "text_embeds" not in added:
        return None
    text, times = added["text_embeds"], added["time_ids"]
    return torch.cat([text, unet.add_time_proj(times.flatten()).reshape(len(text), -1).to(text.dtype)], dim=-1)
