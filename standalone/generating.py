"""`controlstack generate`: a request from what was said, its pictures drawn a few at a time, and what is written."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..core.stack import Firing
    from ..pipelines.bases import Base
    from ..pipelines.drawing import Request
    from ..units.ready import Ready
    from ..units.request import UnitRequest

    Image = NDArray[np.uint8]

RANDOM_SEED = -1  # asks for a seed by chance
SEEDS = 2**32  # that chance chooses from; every program takes them
LARGEST = 2  # sides of a picture that is started from, in native sides, before it is made smaller
SHOWN = 256  # pixels of a picture's height on the sheet


@dataclass
class Done:
    """The pictures that are finished, with their seeds, and how often each unit acted in the last of them."""

    images: list[Image] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    firings: tuple[Firing, ...] = ()


def run_generate(args: argparse.Namespace) -> int:
    """Draw and write pictures; an interrupt keeps those that are finished. Everything is checked before the first."""
    from ..pipelines.bases import DTYPES, Offload, UnetState, load_base
    from ..preprocessors.images import check_folder
    from .units import load_units, parse_unit

    check_folder(args.output)
    units = [parse_unit(text) for text in args.unit]
    request = make_request(args, units)
    parts = split(request, args.at_once)
    dtype = DTYPES[args.dtype]
    load = cache(
        partial(
            load_base,
            args.base,
            dtype=dtype,
            device=args.device,
            offload=Offload(args.offload),
            prediction=args.prediction,
        )
    )
    loaded = load_units(units, (request.height, request.width), dtype, UnetState(load))  # small files fail first
    sources = {name: path for name, path in (("image", args.image), ("mask", args.mask)) if path is not None}
    _draw(load(), request, parts, loaded, args.output, sources)
    return 0


def make_request(args: argparse.Namespace, units: Sequence[UnitRequest]) -> Request:
    """Return the request of a command line; what was not said follows from the base and the picture."""
    from ..pipelines.bases import native_side
    from ..pipelines.drawing import Request
    from ..preprocessors.images import read_image, read_mask

    start = None if args.image is None else read_image(args.image)
    prompts = _prompts(args, start, units)
    width, height = fitting_size(native_side(args.base), start, args.width, args.height)
    return Request(
        prompt=prompts[0] if len(prompts) == 1 else prompts,
        negative=args.negative,
        steps=args.steps,
        guidance=args.guidance,
        seed=secrets.randbelow(SEEDS) if args.seed == RANDOM_SEED else args.seed,
        batch=len(prompts) if args.batch is None else args.batch,
        width=width,
        height=height,
        scheduler=args.scheduler,
        eta=args.eta,
        image=start,
        mask=None if args.mask is None else read_mask(args.mask),
        strength=args.strength,
    )


def _prompts(args: argparse.Namespace, start: Image | None, units: Sequence[UnitRequest]) -> tuple[str, ...]:
    """Return one prompt for all pictures, or one for each."""
    from ..preprocessors.images import read_image
    from .prompts import make_prompt

    told = start
    if args.prompt_kind == "automatic" and start is None and units:
        picture = units[0].image
        told = read_image(picture) if isinstance(picture, Path) else picture
    given = args.prompt or [None]
    return tuple(make_prompt(args.prompt_kind, each, args.added_prompt, args.captioner, told) for each in given)


def fitting_size(native: int, start: Image | None, width: int | None, height: int | None) -> tuple[int, int]:
    """Return (width, height) in pixels: what was asked for, else a picture's own size, else the base model's.

    A picture to start from keeps its proportions; one that is more than twice as large as the base model draws is made
    as large as that.
    """
    if start is None:
        return width or native, height or native
    tall, wide = start.shape[:2]
    if width and height:
        return width, height
    if width or height:
        return width or _aligned(height * wide / tall), height or _aligned(width * tall / wide)
    scale = native / min(wide, tall) if min(wide, tall) > LARGEST * native else 1.0
    return _aligned(wide * scale), _aligned(tall * scale)


def _aligned(side: float) -> int:
    from ..core.base import LATENT

    return max(LATENT, round(side / LATENT) * LATENT)


def _draw(
    base: Base,
    request: Request,
    parts: Sequence[Request],
    loaded: Sequence[Ready],
    folder: Path,
    sources: Mapping[str, Path],
) -> None:
    """Draw the parts of a request and write each part's pictures; hints and sheet in the end, also if that is early.

    sources: the files of the request's `image` and `mask`.
    """
    from ..pipelines.drawing import generate
    from ..preprocessors.images import make_folder
    from .progress import steps_bar
    from .record import Digests, next_number, write_pictures

    number, done, digests = next_number(folder), Done(), Digests()
    units = [each.unit for each in loaded]
    sources = (Path(unit.model.source) for unit in units if unit.model.source)  # a reference has none
    digests.begin(path for path in (base.source, *sources) if path is not None)
    try:
        with steps_bar(request.steps * len(parts), shown=sys.stderr.isatty()) as report:
            for k, part in enumerate(parts):
                before = k * request.steps
                result = generate(base, part, units, lambda step, b=before: report(b + step))
                done.firings, first = result.firings, number + len(done.images)
                make_folder(folder)
                write_pictures(folder, base, part, units, result, number=first, sources=sources, digests=digests)
                done.images.extend(result.images)
                done.seeds.extend(result.seeds)
    finally:
        if done.images:
            _write_rest(folder, number, loaded, done)


def split(request: Request, at_once: int) -> list[Request]:
    """Return requests of at most so many pictures that together draw the same. HostError for less than one."""
    from ..core.errors import HostError

    if at_once < 1:
        raise HostError(f"--at-once is {at_once}, expected 1 or more")
    starts = range(0, request.batch, at_once)
    shares = {start: request.prompts[start : start + at_once] for start in starts}
    return [
        replace(request, prompt=share, batch=len(share), seed=request.seed + start) for start, share in shares.items()
    ]


def _write_rest(folder: Path, number: int, loaded: Sequence[Ready], done: Done) -> None:
    """Write hints and sheet beside the pictures, and say what was done."""
    from ..pipelines.sheets import sheet
    from ..preprocessors.images import write_image
    from ..units.hint import visible
    from .report import describe

    for k, each in enumerate(loaded):
        write_image(folder / f"{number:05d}-hint-{k + 1}.png", visible(each.hint))
    cells = [(f"hint {k + 1}", visible(each.hint)) for k, each in enumerate(loaded)]
    cells += [(f"seed {seed}", image) for image, seed in zip(done.images, done.seeds, strict=True)]
    write_image(folder / f"{number:05d}-sheet.png", sheet([cells], side=SHOWN))
    for line in describe(loaded, done.firings):
        print(line)
    seeds = str(done.seeds[0]) if len(done.seeds) == 1 else f"{done.seeds[0]} to {done.seeds[-1]}"
    print(f"wrote {len(done.images)} pictures to {folder}, from {number:05d}.png, seed {seeds}")
