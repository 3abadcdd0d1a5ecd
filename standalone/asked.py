"""What `controlstack generate` is asked for: the request of what was said."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..pipelines.request import Request
    from ..units.request import UnitRequest

    Image = NDArray[np.uint8]

RANDOM_SEED = -1  # asks for a seed by chance
SEEDS = 2**32  # that chance chooses from; every program takes them
LARGEST = 2  # sides of a picture that is started from, in native sides, before it is made smaller
PICTURES = ("image", "mask")  # fields of a request that hold a file or pixels
UNIT_PICTURES = ("image", "effect_mask", "inpaint_mask")  # and of a unit


def make_request(args: argparse.Namespace, units: Sequence[UnitRequest]) -> Request:
    """Return the request of a command line; what was not said follows from the base and the picture."""
    from ..pipelines.bases import native_side
    from ..pipelines.loras.file import read_lora
    from ..pipelines.request import Request
    from ..preprocessors.images import read_image, read_mask

    start = _pixels(args.image, read_image)
    prompts = _prompts(args, start, units)
    width, height = fitting_size(native_side(args.base), start, args.width, args.height)
    return Request(
        prompt=prompts[0] if len(prompts) == 1 else prompts,
        negative=args.negative,
        steps=args.steps,
        guidance=args.guidance,
        seed=chance() if args.seed == RANDOM_SEED else args.seed,
        batch=len(prompts) if args.batch is None else args.batch,
        width=width,
        height=height,
        scheduler=args.scheduler,
        eta=args.eta,
        image=start,
        mask=_pixels(args.mask, read_mask),
        strength=args.strength,
        clip_skip=args.clip_skip,
        loras=tuple(map(read_lora, args.lora)),
        hires=args.hires,
        hires_steps=args.hires_steps,
        hires_strength=args.hires_strength,
    )


def check_at_once(at_once: int) -> None:
    """Raise HostError for less than one picture at once."""
    from ..core.errors import HostError

    if at_once < 1:
        raise HostError(f"--at-once is {at_once}, expected 1 or more")


def chance() -> int:
    """Return a seed by chance."""
    return secrets.randbelow(SEEDS)


def fitting_size(native: int, start: Image | None, width: int | None, height: int | None) -> tuple[int, int]:
    """Return (width, height) in pixels: what was asked for, else a picture's own size, else the base model's.

    A picture to start from keeps its proportions; one that is more than twice as large as the base model draws is made
    as large as that.
    """
    if start is None:
        return native if width is None else width, native if height is None else height
    tall, wide = start.shape[:2]
    if width is not None:
        return width, _aligned(width * tall / wide) if height is None else height
    if height is not None:
        return _aligned(height * wide / tall), height
    scale = native / min(wide, tall) if min(wide, tall) > LARGEST * native else 1.0
    return _aligned(wide * scale), _aligned(tall * scale)


def _aligned(side: float) -> int:
    from ..core.network.base import LATENT

    return max(LATENT, round(side / LATENT) * LATENT)


def _pixels(picture: Path | Image | None, read: Callable[[Path], Image]) -> Image | None:
    """Return the pixels of a file, and pixels as they are."""
    return read(picture) if isinstance(picture, Path) else picture


def _prompts(args: argparse.Namespace, start: Image | None, units: Sequence[UnitRequest]) -> tuple[str, ...]:
    """Return one prompt for all pictures, or one for each."""
    from ..preprocessors.images import read_image
    from .prompts import make_prompt

    told = start
    if args.prompt_kind == "automatic" and start is None and units:
        picture = units[0].image
        picture = picture[0] if isinstance(picture, tuple) else picture
        told = read_image(picture) if isinstance(picture, Path) else picture
    given = args.prompt or [None]
    return tuple(make_prompt(args.prompt_kind, each, args.added_prompt, args.captioner, told) for each in given)
