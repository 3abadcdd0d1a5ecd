"""Our stack inside a diffusers pipeline: a hook on the U-Net adds what the units say to its own residual arguments.

The pipeline, its scheduler and the U-Net's forward stay as they are. `inject` returns a context manager; afterwards,
also after an exception or an interrupt, the U-Net has no trace of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.attach import Patches
from ..core.base import Base, check_fits
from ..core.effects import Effects
from ..core.schedule import Progress, progress_at
from ..core.stack import ControlStack
from ..core.step import Step
from ..core.unit import ControlUnit

LAYERS_KEY, WIDTHS_KEY = "layers_per_block", "block_out_channels"


def base_of(unet: Any) -> Base:
    """The widths of a diffusers U-Net that control models must share."""
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
        check_fits(unit.model.name, unit.model.base, base)


class Injection:
    """One run of a pipeline: counts the evaluations of its U-Net and translates between diffusers and the stack.

    pictures: rows of the batch that show a picture each; with guidance the U-Net sees the uncond rows before them.
    """

    def __init__(self, pipeline: Any, stack: ControlStack, pictures: int) -> None:
        self._pipeline, self._stack, self._pictures = pipeline, stack, pictures
        self._patches = Patches()
        self._evaluations = 0
        self._times: list[float] = []

    def __enter__(self) -> Injection:
        unet = self._pipeline.unet
        self._patches.hook(unet.register_forward_pre_hook(self._before, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.eject()
        self._stack.close()

    def _before(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        step = self._step(unet, args[0], args[1], kwargs)
        self._evaluations += 1
        residuals = self._stack(step)
        return (args, {**kwargs, **arguments(unet, residuals, kwargs)}) if residuals else (args, kwargs)

    def _step(self, unet: Any, x: Tensor, time: Tensor, kwargs: dict[str, Any]) -> Step:
        rows = len(x)
        return Step(
            x=x[:, : self._pipeline.vae.config["latent_channels"]],  # inpainting models read a mask behind the latents
            timestep=torch.as_tensor(time, device=x.device).expand(rows),
            context=kwargs["encoder_hidden_states"],
            cond=tuple(row >= rows - self._pictures for row in range(rows)),
            progress=self._progress(),
            y=vector_condition(unet, kwargs.get("added_cond_kwargs")),
            pictures=tuple(row % self._pictures for row in range(rows)),
        )

    def _progress(self) -> Progress:
        """Where the run stands; samplers of second order evaluate each step twice, and both belong to it."""
        scheduler = self._pipeline.scheduler
        if not self._times:  # read once: a value on the device would stall every step
            self._times = scheduler.timesteps[-self._pipeline.num_timesteps :].tolist()
        count = -(-len(self._times) // scheduler.order)
        at = min(self._evaluations, len(self._times) - 1)
        noise = 1 - self._times[at] / (scheduler.config["num_train_timesteps"] - 1)
        return progress_at(at // scheduler.order, count, noise=min(1.0, max(0.0, noise)))


def arguments(unet: Any, residuals: Effects, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Effects as the keyword arguments of `UNet2DConditionModel.forward`."""
    more: dict[str, Any] = {}
    if residuals.output or residuals.middle:
        count = len(base_of(unet).blocks or ())
        middle = residuals.middle[0] if residuals.middle else None
        some = next(tensor for tensor in (*residuals.output, middle) if tensor is not None)
        nothing = some.new_zeros(())
        skips = (*residuals.output, *(None,) * (count - len(residuals.output)))
        more["down_block_additional_residuals"] = tuple(nothing if skip is None else skip for skip in skips)
        more["mid_block_additional_residual"] = nothing if middle is None else middle
    if residuals.input:
        more["down_intrablock_additional_residuals"] = _intrablock(unet, residuals)
    tokens = [token for token in residuals.tokens if token is not None]
    if tokens:
        more["encoder_hidden_states"] = torch.cat([kwargs["encoder_hidden_states"], *tokens], dim=1)
    return more


def _intrablock(unet: Any, residuals: Effects) -> list[Tensor]:
    """One tensor per level: diffusers adds it after the level's last transformer, or after its halving.

    SDXL's adapters also act on the middle block, which diffusers does with a last tensor, when the shapes agree.
    """
    some = next(tensor for tensor in residuals.input if tensor is not None)
    per_level = unet.config[LAYERS_KEY] + 1
    levels = []
    for level, block in enumerate(unet.down_blocks):
        last = per_level * level + unet.config[LAYERS_KEY]
        attends, halves = hasattr(block, "attentions"), block.downsamplers is not None
        slot = last if attends or not halves else last + 1
        tensor = residuals.input[slot] if slot < len(residuals.input) else None
        levels.append(some.new_zeros(()) if tensor is None else tensor)
    return levels


def vector_condition(unet: Any, added: Mapping[str, Tensor] | None) -> Tensor | None:
    """Return SDXL's vector condition y [B, A] as the U-Net puts it together: pooled text, then sizes as sinusoids.

    added: `text_embeds` [B, P] and `time_ids` [B, 6]; None, or without them, for other base models, which have none.
    """
    if not added or "text_embeds" not in added:
        return None
    text, times = added["text_embeds"], added["time_ids"]
    return torch.cat([text, unet.add_time_proj(times.flatten()).reshape(len(text), -1).to(text.dtype)], dim=-1)
