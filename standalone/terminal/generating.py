"""`controlstack generate`: pictures of a request, drawn a few at a time, and what is written beside them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import path_of
from ...core.wording import print_line
from ..asked import UNIT_PICTURES, check_at_once, make_request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ...core.firing import Firing
    from ...pipelines.bases import Base
    from ...pipelines.request import Request
    from ...units.ready import Ready
    from ...units.request import UnitRequest

    Image = NDArray[np.uint8]

SHOWN = 256  # pixels of a picture's height on the sheet


@dataclass
class Done:
    """The pictures that are finished, with their seeds, and how often each unit acted in the last of them."""

    images: list[Image] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    firings: tuple[Firing, ...] = ()


def run_generate(args: argparse.Namespace) -> int:
    """Draw and write pictures; an interrupt keeps those that are finished. Everything is checked before the first."""
    from ...preprocessors.images import check_folder
    from ..units import load_models, make_units, parse_unit
    from .idle import check_generate
    from .series import find_series, run_series

    check_folder(args.output)
    units = [parse_unit(text) for text in args.unit]
    args, units = with_paths(args, units)
    check_at_once(args.at_once)
    series = find_series(args, units)
    check_generate(args, many=series is not None)

    from ...pipelines.libraries import import_libraries

    import_libraries()  # seconds

    from ...pipelines.bases import DTYPES, Offload, UnetState, load_base

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
    if series is not None:
        models = load_models(units, dtype, UnetState(load))
        run_series(series, args, units, load(), models)
        return 0
    request = make_request(args, units)
    models = load_models(units, dtype, UnetState(load))  # small files fail first
    loaded = make_units(units, models, (request.height, request.width))
    sources = {name: path for name, path in (("image", args.image), ("mask", args.mask)) if path is not None}
    _draw(load(), request, loaded, args, sources)
    return 0


def with_paths(args: argparse.Namespace, units: Sequence[UnitRequest]) -> tuple[argparse.Namespace, list[UnitRequest]]:
    """Return arguments and units with paths of models instead of names such as `sd15`.

    FileError for the first path that leads nowhere, before anything that takes seconds is imported.
    """
    from ...core.errors import FileError, HostError
    from ...models.kinds.fileless import FILELESS
    from ...pipelines.loras.file import Lora, read_lora
    from ..hub.places import located
    from ..media.sources import is_pattern

    if args.base is None:
        raise HostError("there is no base model: give a diffusers folder or a checkpoint file as --base")
    named = [replace(unit, **{name: _named(getattr(unit, name)) for name in UNIT_PICTURES}) for unit in units]
    base = located(args.base, "checkpoint")
    said = [args.image, args.mask, *(getattr(unit, name) for unit in named for name in UNIT_PICTURES)]
    for path in (path for each in said for path in (each if isinstance(each, tuple) else (each,))):
        if isinstance(path, Path) and not path.exists() and not is_pattern(path):
            raise FileError(f"there is no picture {path}: check the path")
    loras = [read_lora(text) for text in args.lora]
    there = [str(Lora(str(located(Path(each.path), "LoRA")), each.weight)) for each in loras]
    found = [
        unit if unit.model in FILELESS else replace(unit, model=str(located(Path(unit.model), "model file")))
        for unit in named
    ]
    return argparse.Namespace(**{**vars(args), "base": base, "lora": there}), found


def _named(picture: Any) -> Any:
    """Return the files of a unit as `path_of` reads their names; nothing as it is."""
    if isinstance(picture, tuple):
        return tuple(path_of(str(each)) for each in picture)
    return path_of(str(picture)) if isinstance(picture, Path) else picture


def _draw(
    base: Base,
    request: Request,
    loaded: Sequence[Ready],
    args: argparse.Namespace,
    sources: Mapping[str, Path],
) -> None:
    """Draw a request and write its pictures part by part; hints and sheet in the end, also if that is early.

    sources: the files of the request's `image` and `mask`.
    """
    from ...pipelines.drawing import generate
    from ...pipelines.shares import check_shares, parts
    from ...preprocessors.images import make_folder
    from ..progress import steps_bar
    from ..record import Digests, write_pictures
    from .settings import write_settings

    done, digests, folder = Done(), Digests(), args.output
    units = [each.unit for each in loaded]
    check_shares(units, request.batch)
    shares = list(parts(request, units, args.at_once))
    models = (Path(unit.model.source) for unit in units if unit.model.source)  # a reference has none
    digests.begin(path for path in (base.source, *models) if path is not None)
    try:
        with steps_bar(request.all_steps * len(shares), shown=sys.stderr.isatty()) as report:
            for k, (part, own) in enumerate(shares):
                before = k * request.all_steps
                result = generate(base, part, own, lambda step, b=before: report(b + step))
                done.firings = result.firings
                make_folder(folder)
                done.files += write_pictures(folder, base, part, own, result, sources=sources, digests=digests)
                done.images.extend(result.images)
                done.seeds.extend(result.seeds)
    finally:
        if done.images:
            used = {"seed": request.seed, "width": request.width, "height": request.height}
            write_settings(folder / f"{done.files[0].stem}-settings.toml", args, **used)
            _write_rest(folder, request, loaded, done)


def _write_rest(folder: Path, request: Request, loaded: Sequence[Ready], done: Done) -> None:
    """Write hints and sheet beside the pictures, called after the first one, and say what was done."""
    from ...core.wording import counted
    from ...pipelines.sheets import sheet
    from ...preprocessors.images import write_image
    from ...preprocessors.resize import gray_to_rgb
    from ...units.hint import beside_each_other, visible
    from .report import describe

    first = done.files[0].stem
    for k, each in enumerate(loaded):
        write_image(folder / f"{first}-hint-{k + 1}.png", beside_each_other(visible(each.hint)))
    rows = [_cells_of(k, each, (request.height, request.width)) for k, each in enumerate(loaded, start=1)]
    started = [("start", request.image), ("redrawn", None if request.mask is None else gray_to_rgb(request.mask))]
    cells = [(label, image) for label, image in started if image is not None]
    cells += [(f"seed {seed}", image) for image, seed in zip(done.images, done.seeds, strict=True)]
    write_image(folder / f"{first}-sheet.png", sheet([*rows, cells], side=SHOWN))
    for line in describe(loaded, done.firings):
        print_line(line)
    seeds = str(done.seeds[0]) if len(done.seeds) == 1 else f"{done.seeds[0]} to {done.seeds[-1]}"
    print_line(f"wrote {counted(len(done.images), 'picture')} to {folder}, from {first}.png, seed {seeds}")


def _cells_of(number: int, each: Ready, size: tuple[int, int]) -> list[tuple[str, Image]]:
    """Return what the sheet shows of a unit: its picture, its hint as read at (height, width), its mask."""
    from ...core.resize import PICTURE, fit
    from ...units.hint import beside_each_other

    unit = each.unit
    cells = [(f"input {number}", beside_each_other(each.image))]
    if unit.hint.ndim == 4:
        several = fit(unit.hint[:1], size, unit.resize)[0].split(PICTURE)
        cells += [(f"hint {number}", _pixels(one)) for one in several]
    if unit.mask is not None:
        cells.append((f"mask {number}", _pixels(unit.mask.reshape(-1, *unit.mask.shape[-2:])[:1])))
    return cells


def _pixels(picture: Tensor) -> Image:
    """Return [C, H, W] from 0 to 1 as uint8 [H, W, 3], the first three channels; -1, to be invented, is black."""
    levels = (picture[:3].clamp(0, 1) * 255).round().byte()
    return levels.movedim(0, -1).expand(-1, -1, 3).cpu().numpy()
