"""`controlstack generate` over folders, patterns and videos: one picture after the other, under the same settings.

Each picture is written as soon as it is drawn, complete or not at all, under the name of what it was drawn from. It
says what it was made from, so that `--resume` skips what is there, and makes again whose picture or settings changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import FileError, HintError
from ...core.wording import print_line
from ..asked import PICTURES, UNIT_PICTURES
from ..media.sources import Files, Film, Frame, many, numbered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...core.control import ControlModel
    from ...pipelines.bases import Base
    from ...pipelines.request import Request
    from ...units.request import UnitRequest
    from ..record import Digests

    Image = NDArray[np.uint8]

KEY = "controlstack-series"  # of the text in a PNG file that says what it was made from
SHOWN = 5  # failures that are told in full
SETTINGS = "settings.toml"  # beside the folders of results

Slot = tuple[int | None, str]  # of a unit, or of the request; and which of its pictures


@dataclass(frozen=True, slots=True)
class Series:
    """What is many, and for what."""

    sources: Mapping[Slot, Files | Film]

    @property
    def leading(self) -> Files | Film:
        """Return the source after which results are called."""
        return next(iter(self.sources.values()))

    @property
    def expected(self) -> int:
        """Return about how many pictures there are."""
        return min(each.expected if isinstance(each, Film) else len(each.frames) for each in self.sources.values())

    def __iter__(self) -> Iterator[tuple[Path, dict[Slot, Path | Image]]]:
        """Yield name and pictures of each item, as long as every source has another one."""
        with ExitStack() as stack:
            running = {slot: stack.enter_context(closing(_frames(each))) for slot, each in self.sources.items()}
            for found in zip(*running.values(), strict=False):
                yield found[0].name, {slot: frame.picture for slot, frame in zip(running, found, strict=True)}


def _frames(source: Files | Film) -> Generator[Frame]:
    yield from source


def find_series(args: argparse.Namespace, units: Sequence[UnitRequest]) -> Series | None:
    """Return what of a command line is many; None if nothing is. HintError for folders that do not fit together."""
    slots: list[tuple[Slot, Any]] = [((None, name), getattr(args, name)) for name in PICTURES]
    slots += [((k, name), getattr(unit, name)) for k, unit in enumerate(units) for name in UNIT_PICTURES]
    paths = {slot: path for slot, path in slots if isinstance(path, Path)}
    found = {slot: source for slot, path in paths.items() if (source := _source(slot, path, args, units)) is not None}
    if not found:
        return None
    counts = {each.said: len(each.frames) for each in found.values() if isinstance(each, Files)}
    if len(set(counts.values())) > 1:
        told = " and ".join(f"{path} {count}" for path, count in counts.items())
        raise HintError(f"folders that are used together must have as many pictures: {told}")
    return Series(found)


def _source(slot: Slot, path: Path, args: argparse.Namespace, units: Sequence[UnitRequest]) -> Files | Film | None:
    """Return the pictures that a path means; a pose file with several frames is drawn by its unit's preprocessor."""
    from ..units import pose_frames

    number, name = slot
    drawn = pose_frames(units[number]) if number is not None and name == "image" else []
    if len(drawn) > 1:
        return Files(path, numbered(path, drawn))
    return None if drawn else many(path, args.output)


def with_pictures(
    args: argparse.Namespace, units: Sequence[UnitRequest], pictures: Mapping[Slot, Path | Image]
) -> tuple[argparse.Namespace, list[UnitRequest]]:
    """Return arguments and units of one item."""
    from ..units import with_image

    own = {name: each for (unit, name), each in pictures.items() if unit is None}
    made = list(units)
    for (k, name), each in pictures.items():
        if k is not None:
            made[k] = with_image(made[k], each) if name == "image" else replace(made[k], **{name: each})
    return argparse.Namespace(**{**vars(args), **own}), made


@dataclass
class Drawer:
    """What all items share, and what came of them."""

    args: argparse.Namespace
    units: Sequence[UnitRequest]
    base: Base
    models: Mapping[Path, ControlModel]
    digests: Digests
    any_seed: bool  # whether the seed is by chance: then another one is no reason to draw again
    written: int = 0
    skipped: int = 0
    failures: list[HintError | FileError] = field(default_factory=list)

    def draw(self, name: Path, pictures: Mapping[Slot, Path | Image]) -> None:
        """Draw one item and write its pictures, unless they are there and `--resume` was said."""
        from ..asked import make_request

        args, units = with_pictures(self.args, self.units, pictures)
        request = make_request(args, units)
        targets = [_target(self.args.output, name, k) for k in range(request.batch)]
        key = self._key(request, units, pictures)
        if self.args.resume and all(_says(path) == key for path in targets):
            self.skipped += len(targets)
            return
        self._write(args, request, units, key, targets)
        self.written += len(targets)

    def _write(
        self, args: argparse.Namespace, request: Request, units: Sequence[UnitRequest], key: str, targets: list[Path]
    ) -> None:
        from ...pipelines.drawing import generate
        from ...pipelines.shares import check_shares, parts
        from ...preprocessors.images import make_folder, write_image
        from ..record import make_texts
        from ..units import make_units

        loaded = [each.unit for each in make_units(units, self.models, (request.height, request.width))]
        sources = {name: path for name in PICTURES if isinstance(path := getattr(args, name), Path)}
        make_folder(targets[0].parent)
        check_shares(loaded, request.batch)
        first = 0
        for part, own in parts(request, loaded, self.args.at_once):
            result = generate(self.base, part, own)
            texts = make_texts(self.base, part, own, result.firings, sources, self.digests)
            for k, image in enumerate(result.images):
                write_image(targets[first + k], image, {**texts(k), KEY: key})
            first += len(result.images)

    def _key(self, request: Request, units: Sequence[UnitRequest], pictures: Mapping[Slot, Path | Image]) -> str:
        """Return what changes with everything that decides about an item's pictures, files by their content."""
        from ...units.record import to_record

        plain = {each.name: getattr(request, each.name) for each in fields(request) if each.name not in PICTURES}
        if self.any_seed:
            del plain["seed"]
        said = [to_record(replace(unit, **dict.fromkeys(UNIT_PICTURES, None))) for unit in units]
        paths: list[Any] = [path for unit in units for path in (unit.effect_mask, unit.inpaint_mask, unit.model)]
        for image in (unit.image for unit in units):
            paths += image if isinstance(image, tuple) else (image,)
        paths += [getattr(self.args, name) for name in PICTURES]
        paths += [each.path for each in request.loras]
        files = [Path(each) for each in paths if isinstance(each, (str, Path)) and Path(each).is_file()]
        files += [each for each in pictures.values() if isinstance(each, Path)]
        files += [self.base.source] if self.base.source is not None else []
        pixels = [
            hashlib.sha256(each.tobytes()).hexdigest() for each in pictures.values() if not isinstance(each, Path)
        ]
        told = [plain, said, [self.digests.of(path) for path in files], pixels]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def run_series(
    series: Series,
    args: argparse.Namespace,
    units: Sequence[UnitRequest],
    base: Base,
    models: Mapping[Path, ControlModel],
) -> None:
    """Draw all items with a bar on a terminal, and say what came of them, also when interrupted.

    Every item has the same seed. A picture that cannot be read does not stop the others: HintError names it at the end.
    """
    from ...core.wording import counted
    from ..asked import RANDOM_SEED, chance
    from ..progress import bar
    from ..record import Digests
    from .settings import write_settings

    any_seed = args.seed == RANDOM_SEED
    shared = argparse.Namespace(**{**vars(args), "seed": chance() if any_seed else args.seed})
    drawer = Drawer(shared, units, base, models, Digests(), any_seed)
    for source in series.sources.values():
        if isinstance(source, Files) and source.left_out:
            print_line(f"left out of {source.said}: {source.left_out}", error=True)
    names: list[Path] = []
    try:
        for name, pictures in bar(series, "pictures", series.expected):
            try:
                drawer.draw(name, pictures)
                names.append(name)
            except (HintError, FileError) as error:
                drawer.failures.append(error)
        if isinstance(series.leading, Film) and not drawer.failures:
            _write_film(args.output, series.leading, names)
    finally:
        if drawer.written:
            write_settings(args.output / SETTINGS, args, seed=shared.seed)
        there = f", {drawer.skipped} were there" if drawer.skipped else ""
        print_line(f"wrote {counted(drawer.written, 'picture')} to {args.output}{there}, seed {shared.seed}")
    if drawer.failures:
        more = f"; and {len(drawer.failures) - SHOWN} more" if len(drawer.failures) > SHOWN else ""
        told = "; ".join(str(error) for error in drawer.failures[:SHOWN])
        raise HintError(f"{len(drawer.failures)} could not be drawn, the others are done: {told}{more}")


def _write_film(output: Path, film: Film, names: Sequence[Path]) -> None:
    """Write the first picture of each frame as a video beside the folder of frames."""
    from ...preprocessors.images import read_image
    from ..media.videos import write_video

    path = output / f"{film.said.stem}.mp4"
    write_video(path, film.rate, (read_image(_target(output, name, 0)) for name in names))
    print_line(f"wrote {path}")


def _target(output: Path, name: Path, number: int) -> Path:
    """Return where a picture of an item goes; from the second on they are numbered."""
    return output / name.with_name(f"{name.name}{f'-{number + 1}' if number else ''}.png")


def _says(path: Path) -> str | None:
    """Return what a picture says it was made from; None if it is none of ours, or not there."""
    from ...preprocessors.texts import read_texts

    try:
        return read_texts(path).get(KEY)
    except HintError:  # it is made again
        return None
