"""Draw pictures: a base model, a request and control units -> pictures, without the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import HostError
from ..core.network.base import LATENT
from ..core.stack import ControlStack, Firing
from ..core.unit import ControlUnit
from ..preprocessors import MAX_PIXELS
from .attached import Injection, check_units
from .bases import Base
from .folders import INPAINTING
from .quiet import quiet
from .schedulers import make_scheduler, scheduler_name

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Image = NDArray[np.uint8]
HIGHEST_ETA = 1 - 1e-6  # where a schedule ends without signal: at 1, rounding makes DDIM take the root of a negative
LAST_SEED = 2**63 - 1  # of torch's generators
WHITE, GREY = 255, 128  # of a mask's redrawn part, and of no picture
DEFAULT_PROMPT = "a professional, detailed, high-quality image"  # ControlNet paper, section 4.1, "default prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for, apart from the units."""

    prompt: str | tuple[str, ...] = ""  # one for all pictures, or one for each
    negative: str = ""
    steps: int = 20
    guidance: float = 7.5
    seed: int = 0
    batch: int = 1
    width: int = 512
    height: int = 512
    scheduler: str = "unipc"
    eta: float = 0.0  # of DDIM
    image: Image | None = None  # start from this picture, [H, W, 3]
    mask: Image | None = None  # redraw only this part of the picture, [H, W]: 255 is redrawn, 0 is kept
    strength: float = 0.75  # of what is redrawn: how far it may go from the picture

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("batch", self.batch)):
            if value < 1:
                raise HostError(f"{name} is {value}, expected 1 or more")
        for name, value in (("width", self.width), ("height", self.height)):
            if value < LATENT or value % LATENT:
                near = max(LATENT, round(value / LATENT) * LATENT)
                raise HostError(f"{name} is {value}, expected a multiple of {LATENT}: take {near}")
        if self.width * self.height > MAX_PIXELS:
            raise HostError(f"{self.width}x{self.height} has too many pixels, expected at most {MAX_PIXELS:,}")
        if not isinstance(self.prompt, str) and len(self.prompt) != self.batch:
            raise HostError(f"{len(self.prompt)} prompts for {self.batch} pictures: give one prompt, or one for each")
        if not 0 < self.strength <= 1:
            raise HostError(f"strength is {self.strength}, expected more than 0 and at most 1")
        if self.image is not None and self.steps * self.strength < 1:
            raise HostError(
                f"{self.steps} steps at strength {self.strength} leave none to run, expected 1 or more: raise either"
            )
        self._check_mask()
        self._check_sampling()

    def _check_mask(self) -> None:
        if self.mask is None:
            return
        if self.image is None:
            raise HostError("a mask says which part of a picture is redrawn, but there is no picture: add --image")
        if self.mask.ndim != 2:
            raise HostError(f"the mask is an array {list(self.mask.shape)}, expected [H, W]: give its brightness alone")
        wrong, right = (f"{width}x{height}" for height, width in (self.mask.shape, self.image.shape[:2]))
        if wrong != right:
            raise HostError(f"the mask is {wrong}, expected the picture's size, {right}: give one of that size")
        if self.mask.max() < WHITE / 2:
            raise HostError("the mask is black everywhere, so nothing would be redrawn: paint white what is to change")

    def _check_sampling(self) -> None:
        if not math.isfinite(self.guidance):
            raise HostError(f"guidance is {self.guidance}, expected a finite number")
        if not 0 <= self.seed <= LAST_SEED - self.batch:
            raise HostError(f"seed is {self.seed}, expected 0 to {LAST_SEED - self.batch}")
        if not 0 <= self.eta <= 1:  # NaN fails too
            raise HostError(f"eta is {self.eta}, expected 0 (DDIM) to 1 (DDPM)")
        if scheduler_name(self.scheduler) != "ddim" and self.eta:
            raise HostError(f"eta is {self.eta}, but '{self.scheduler}' has none, expected the scheduler ddim")

    @property
    def prompts(self) -> tuple[str, ...]:
        """Return the prompt of each picture."""
        return (self.prompt,) * self.batch if isinstance(self.prompt, str) else self.prompt


@dataclass(frozen=True, slots=True)
class Result:
    """Pictures [N, H, W, 3] with their seeds, and on how many steps each unit acted."""

    images: Image
    seeds: tuple[int, ...]
    firings: tuple[Firing, ...] = field(default=())


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
    all of one. Each picture has its own seed, so picture k of a batch is the single picture of seed + k.
    Raises HostError for pictures that are not finite: values outgrew the dtype.
    """
    pipeline = _pipeline_for(base.pipeline, request)
    check_units(units, pipeline.unet)
    stack = ControlStack(units, base)
    seeds = tuple(request.seed + k for k in range(request.batch))
    before = pipeline.scheduler
    pipeline.scheduler = make_scheduler(request.scheduler, before.config)
    try:
        with Injection(pipeline, stack, request.batch):
            images = pipeline(
                **_arguments(pipeline, request, seeds, before.config), callback_on_step_end=_reporter(progress, watch)
            ).images
    finally:
        pipeline.scheduler = before
    if not np.isfinite(images).all():
        raise HostError(
            f"the picture holds NaN or infinite values: the base model computes in {pipeline.unet.dtype}, "
            "expected a dtype that holds its values: give --dtype fp32 or bf16"
        )
    drawn = np.rint(_kept(request, np.asarray(images) * 255)).astype(np.uint8)
    return Result(drawn, seeds, stack.firings())


def _pipeline_for(pipeline: Any, request: Request) -> Any:
    """Return the same networks behind the pipeline that the request needs."""
    inpaints = request.mask is not None or _reads_mask(pipeline)
    if request.image is None and not inpaints:
        return pipeline
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

    with quiet():
        other = (AutoPipelineForInpainting if inpaints else AutoPipelineForImage2Image).from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    return other


def _reads_mask(pipeline: Any) -> bool:
    return pipeline.unet.config["in_channels"] == INPAINTING


def _kept(request: Request, drawn: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return pictures [N, H, W, 3] in 0..255 with what the mask keeps of the given picture."""
    if request.mask is None:
        return drawn
    share = np.asarray(_mask(request))[..., None] / WHITE
    return share * drawn + (1 - share) * np.asarray(_picture(request))


def _arguments(pipeline: Any, request: Request, seeds: Sequence[int], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the pipeline is called with; without a picture, models for inpainting redraw all of a grey one."""
    arguments: dict[str, Any] = {
        "prompt": list(request.prompts),
        "negative_prompt": [request.negative] * request.batch,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "eta": min(request.eta, HIGHEST_ETA) if scheduler.get("rescale_betas_zero_snr") else request.eta,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "output_type": "np",
    }
    size = {"width": request.width, "height": request.height}
    inpaints = request.mask is not None or _reads_mask(pipeline)
    if request.image is None and not inpaints:
        return {**arguments, **size}
    strength = 1.0 if request.image is None else request.strength
    arguments |= {"image": [_picture(request)] * request.batch, "strength": strength}
    return {**arguments, **size, "mask_image": [_mask(request)] * request.batch} if inpaints else arguments


def _picture(request: Request) -> PillowImage:
    """Return the picture to start from, at the request's size; grey without one."""
    from PIL import Image as Pillow

    size = (request.width, request.height)
    if request.image is None:
        return Pillow.new("RGB", size, (GREY,) * 3)
    return Pillow.fromarray(request.image).resize(size, Pillow.Resampling.LANCZOS)


def _mask(request: Request) -> PillowImage:
    """Return what is redrawn, at the request's size; all without a mask."""
    from PIL import Image as Pillow

    size = (request.width, request.height)
    if request.mask is None:
        return Pillow.new("L", size, WHITE)
    return Pillow.fromarray(request.mask).resize(size, Pillow.Resampling.BILINEAR)


def _reporter(
    progress: Callable[[int], None] | None, watch: Callable[[torch.Tensor], None] | None
) -> Callable[..., dict[str, Any]]:
    """Return the callback that diffusers calls after each step."""

    def report(_pipeline: Any, step: int, _time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if watch is not None:
            watch(kwargs["latents"])
        if progress is not None:
            progress(step + 1)
        return kwargs

    return report
