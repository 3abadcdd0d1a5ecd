"""Draw pictures: a base model, a request and control units -> pictures, without the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import HostError
from ..core.firing import Firing
from ..core.stack import ControlStack
from ..core.unit import ControlUnit
from ..units.choices import HiresOption
from ..units.make import acts_in
from ..units.request import UnitRequest
from .attached import Injection, check_units
from .bases import Base, damaged_weight
from .clip.encoding import encode
from .folders import INPAINTING
from .loras.applied import applied
from .quiet import quiet
from .request import WHITE, Request
from .schedulers import make_scheduler
from .shares import check_shares, check_together

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Image = NDArray[np.uint8]
HIGHEST_ETA = 1 - 1e-6  # where a schedule ends without signal: at 1, rounding makes DDIM take the root of a negative
GREY = 128  # of no picture


@dataclass(frozen=True, slots=True)
class Result:
    """Pictures [N, H, W, 3] with their seeds, and on how many steps each unit acted."""

    images: Image
    seeds: tuple[int, ...]
    firings: tuple[Firing, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One run over the steps: of pictures there are one or two."""

    size: tuple[int, int]  # width, height
    steps: int
    pictures: Sequence[PillowImage] = ()  # to start from, one for each
    strength: float = 1.0
    mask: PillowImage | None = None  # what is redrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listener:
    """Who is told about steps: how many are done, and what the latents [N, 4, h, w] are."""

    progress: Callable[[int], None] | None
    latents: Callable[[torch.Tensor], None] | None
    before: int = 0  # steps of the pass before

    def told(self, _pipeline: Any, step: int, _time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Tell about a step, as diffusers calls it after each."""
        if self.latents is not None:
            self.latents(kwargs["latents"])
        if self.progress is not None:
            self.progress(self.before + step + 1)
        return kwargs


def generate(
    base: Base,
    request: Request,
    units: Sequence[ControlUnit] = (),
    progress: Callable[[int], None] | None = None,
    watch: Callable[[torch.Tensor], None] | None = None,
) -> Result:
    """Draw the pictures of a request. Everything is checked before the first step.

    progress: told after each step how many are done. watch: shown the latents [N, 4, h, w] after each step.

    What a mask keeps is the given picture's, pixel by pixel; grey mixes. A model for inpainting without a picture draws
    all of one. Each picture has its own seed, so picture k of a batch is the single picture of seed + k. A hires pass
    begins from the enlarged pictures; hints are fitted to their size, and a unit acts in the passes that it is for.
    Raises HostError for pictures that are not finite: values outgrew the dtype.
    """
    check_units(units, base.pipeline.unet)
    check_shares(units, request.batch)
    check_together(request)
    seeds = tuple(request.seed + k for k in range(request.batch))
    listener = _Listener(progress=progress, latents=watch)
    with applied(base.pipeline, request.loras):
        words = encode(base.pipeline, request.prompts, request.negative, request.clip_skip)
        settings = {**words, "guidance_scale": request.guidance}
        if request.hires == 1:
            return Result(*_draw(base, request, units, _first(request), settings, listener))
        images, _, low = _draw(base, request, _acting_in(units, HiresOption.LOW), _first(request), settings, listener)
        listener = replace(listener, before=request.steps_of_first)
        images, _, high = _draw(
            base, request, _acting_in(units, HiresOption.HIGH), _second(request, images), settings, listener
        )
    return Result(images, seeds, tuple(first + second for first, second in zip(low, high, strict=True)))


def _acting_in(units: Sequence[ControlUnit], part: HiresOption) -> list[ControlUnit]:
    """Return the units of a pass; those of the other one do not act in it."""
    return [
        each if not isinstance(each.origin, UnitRequest) or acts_in(each.origin, part) else replace(each, weight=0.0)
        for each in units
    ]


def _first(request: Request) -> _Pass:
    from PIL import Image as Pillow

    size = (request.width, request.height)
    if request.image is None:
        return _Pass(size=size, steps=request.steps)
    picture = Pillow.fromarray(request.image).resize(size, Pillow.Resampling.LANCZOS)
    mask = None
    if request.mask is not None:
        mask = Pillow.fromarray(request.mask).resize(size, Pillow.Resampling.BILINEAR)
    pictures = [picture] * request.batch
    return _Pass(size=size, steps=request.steps, pictures=pictures, strength=request.strength, mask=mask)


def _second(request: Request, images: Image) -> _Pass:
    """Return the hires pass, which begins from the enlarged pictures of the first one."""
    from PIL import Image as Pillow

    size = request.final_size
    pictures = [Pillow.fromarray(each).resize(size, Pillow.Resampling.LANCZOS) for each in images]
    steps = request.hires_steps or request.steps
    return _Pass(size=size, steps=steps, pictures=pictures, strength=request.hires_strength)


def _draw(
    base: Base,
    request: Request,
    units: Sequence[ControlUnit],
    one: _Pass,
    settings: Mapping[str, Any],
    listener: _Listener,
) -> tuple[Image, tuple[int, ...], tuple[Firing, ...]]:
    """Return the pictures [N, H, W, 3] of a pass, their seeds, and on how many steps each unit acted."""
    pipeline = _pipeline_for(base.pipeline, one)
    stack = ControlStack(units, base, beside=base.computes_beside)
    seeds = tuple(request.seed + k for k in range(request.batch))
    before = pipeline.scheduler
    pipeline.scheduler = make_scheduler(request.scheduler, before.config)
    eta = min(request.eta, HIGHEST_ETA) if before.config.get("rescale_betas_zero_snr") else request.eta
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    try:
        with Injection(pipeline, stack, request.batch):
            images = pipeline(
                **settings,
                **_arguments(pipeline, one, request.batch),
                eta=eta,
                generator=generators,
                output_type="np",
                callback_on_step_end=listener.told,
            ).images
    finally:
        pipeline.scheduler = before
    if not np.isfinite(images).all():
        raise HostError(f"the picture holds NaN or infinite values: {_why_not_finite(pipeline)}")
    return np.rint(_kept(one, np.asarray(images) * 255)).astype(np.uint8), seeds, stack.firings()


def _why_not_finite(pipeline: Any) -> str:
    """Return where a picture's NaN came from and what to do: a weight of the base that holds one, else the dtype."""
    if weight := damaged_weight(pipeline):
        return f"so does {weight}: get the base model again"
    dtype = pipeline.unet.dtype
    if dtype == torch.float32:
        return "no weight of the base model does, so values grow too large: lower --guidance and the units' weights"
    wider = "fp32" if dtype == torch.bfloat16 else "fp32 or bf16"
    return f"the base model computes in {dtype}, expected a dtype that holds its values: give --dtype {wider}"


def _pipeline_for(pipeline: Any, one: _Pass) -> Any:
    """Return the same networks behind the pipeline that a pass needs."""
    inpaints = one.mask is not None or _reads_mask(pipeline)
    if not one.pictures and not inpaints:
        return pipeline
    with quiet():
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

        other = (AutoPipelineForInpainting if inpaints else AutoPipelineForImage2Image).from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    return other


def _reads_mask(pipeline: Any) -> bool:
    return pipeline.unet.config["in_channels"] == INPAINTING


def _kept(one: _Pass, drawn: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return pictures [N, H, W, 3] in 0..255 with what the mask keeps of the given picture."""
    if one.mask is None:
        return drawn
    share = np.asarray(one.mask)[..., None] / WHITE
    return share * drawn + (1 - share) * np.asarray(one.pictures[0])


def _arguments(pipeline: Any, one: _Pass, batch: int) -> dict[str, Any]:
    """Return a pass as arguments of the pipeline; models for inpainting redraw all of a grey picture without one."""
    from PIL import Image as Pillow

    width, height = one.size
    size = {"width": width, "height": height}
    steps = {"num_inference_steps": one.steps}
    inpaints = one.mask is not None or _reads_mask(pipeline)
    if not one.pictures and not inpaints:
        return {**steps, **size}
    pictures = one.pictures or [Pillow.new("RGB", one.size, (GREY,) * 3)] * batch
    given = {**steps, "image": [*pictures], "strength": one.strength}
    mask = one.mask or Pillow.new("L", one.size, WHITE)
    return {**given, **size, "mask_image": [mask] * batch} if inpaints else given
