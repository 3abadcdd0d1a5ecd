"""What a picture is asked for apart from its units: `Request`, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import HostError
from ..core.network.base import LATENT
from ..core.wording import counted
from ..preprocessors import MAX_PIXELS
from .loras.file import Lora
from .schedulers import scheduler_name

Image = NDArray[np.uint8]
MOST_STEPS = 1000  # the noise levels that Stable Diffusion was trained with
LAST_SEED = 2**63 - 1  # of torch's generators
WHITE = 255  # of a mask's redrawn part
LARGEST_HIRES = 8.0  # sides of the second pass in those of the first
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
    clip_skip: int = 1  # the layer of CLIP that is read, counted from the last; of SD 1.x
    loras: tuple[Lora, ...] = ()
    hires: float = 1.0  # each picture is drawn once more, as many times larger; 1 is not
    hires_steps: int = 0  # of that second pass; 0 is as many as of the first
    hires_strength: float = 0.5  # how far the second pass may go from the first

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise HostError(f"steps is {self.steps}, expected 1 to {MOST_STEPS}: 20 to 50 are usual")
        if self.batch < 1:
            raise HostError(f"batch is {self.batch}, expected 1 or more")
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
        if self.image is not None:
            _check_run(self.steps, self.strength)
        if self.clip_skip < 1:
            raise HostError(f"clip skip is {self.clip_skip}, expected 1 (the last layer) or more")
        self._check_mask()
        self._check_hires()
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

    def _check_hires(self) -> None:
        if not 1 <= self.hires <= LARGEST_HIRES:  # NaN fails too
            raise HostError(f"hires is {self.hires}, expected 1 (none) to {LARGEST_HIRES:g}")
        if not 0 <= self.hires_steps <= MOST_STEPS:
            raise HostError(
                f"the steps of the hires pass are {self.hires_steps}, expected 0 (as before) to {MOST_STEPS}"
            )
        if not 0 < self.hires_strength <= 1:
            raise HostError(f"the strength of the hires pass is {self.hires_strength}, expected more than 0, at most 1")
        if self.hires == 1:
            return
        width, height = self.final_size
        if width * height > MAX_PIXELS:
            raise HostError(f"{width}x{height} has too many pixels, expected at most {MAX_PIXELS:,}: lower --hires")
        if self.mask is not None:
            raise HostError("a hires pass draws all of a picture again, and a mask a part: leave one of the two out")
        _check_run(self.hires_steps or self.steps, self.hires_strength)

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

    @property
    def final_size(self) -> tuple[int, int]:
        """Return (width, height) of what comes of it, after the hires pass."""
        if self.hires == 1:
            return self.width, self.height
        return round(self.width * self.hires / LATENT) * LATENT, round(self.height * self.hires / LATENT) * LATENT

    @property
    def steps_of_first(self) -> int:
        """Return how many steps are run before a hires pass: fewer than asked for where a picture is begun from."""
        return self.steps if self.image is None else _run(self.steps, self.strength)

    @property
    def all_steps(self) -> int:
        """Return how many steps are run for a picture, those of the hires pass included."""
        second = _run(self.hires_steps or self.steps, self.hires_strength) if self.hires > 1 else 0
        return self.steps_of_first + second


def _run(steps: int, strength: float) -> int:
    """Return how many of the steps are run from a picture on at a strength, as diffusers counts."""
    return min(int(steps * strength), steps)


def _check_run(steps: int, strength: float) -> None:
    if steps * strength < 1:
        said = counted(steps, "step")
        raise HostError(f"at strength {strength}, {said} would leave none to run, expected 1 or more: raise either")
