"""The options of `controlstack evaluate`, and what they say."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....core.files import path_of
from ....pipelines.tiny_world import TINY
from ....units.once import Once
from .kinds import KINDS

if TYPE_CHECKING:
    from ...data.hints import HintSource

FEATURES = ("inception", "clip")  # that FID compares
SCENES, STEPS, GUIDANCE, SAVE_EVERY = 8, 20, 7.5, 200
EXAMPLE = """\
examples:
  controlstack evaluate --out judged --pictures drawn --reference photos --clip clip-vit-large-patch14
  controlstack evaluate --out judged --data pictures --hint canny --base sd15.safetensors --control canny.safetensors
without any of these: the tiny world under its shipped controls, docs/fidelity.md
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser every option of an evaluation, in groups."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    _add_what(parser)
    _add_drawing(parser)
    _add_measures(parser)
    tiny = parser.add_argument_group("the tiny world, without --pictures and --base").add_argument
    tiny("--tiny", type=path_of, metavar="FOLDER", default=TINY, help="default: the shipped one")
    tiny("--scenes", type=int, default=SCENES, help="(default: %(default)s)")


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is judged, and what comes out").add_argument
    add(
        "--pictures",
        type=path_of,
        metavar="FOLDER",
        help="pictures that were drawn; with --data, named as its pictures",
    )
    add(
        "--data",
        type=path_of,
        action=Once,
        help="examples with words and hints, or pictures to make hints of, as for `train`",
    )
    add("--hint", metavar="NAME", help="preprocessor that makes the hints from the examples' pictures, such as canny")
    add("--hint-parameters", default="", metavar="NAME=VALUE,...", help="its parameters")
    add("--picture-column", metavar="NAME", help="column of the data that names the pictures")
    add("--hint-column", metavar="NAME", help="column that names the hints, or their folder")
    add("--caption-column", metavar="NAME", help="column that holds the words")
    add("--resolution", type=int, default=0, metavar="PIXELS", help="cut examples to squares; default: not")
    add("--limit", type=int, default=0, metavar="N", help="the first N examples alone; default: all")
    add(
        "--out",
        type=path_of,
        metavar="FOLDER",
        help="for pictures, results.json and page.html; needed but for the tiny world",
    )
    add("--json", type=path_of, metavar="FILE", help="write the numbers here too")
    add("--page", type=path_of, metavar="FILE", help="of the tiny world: write a page of numbers and pictures here")
    add("--resume", action="store_true", help="go on where an evaluation into the same folder was stopped")
    add("--save-every", type=int, default=SAVE_EVERY, metavar="N", help="pictures (default: %(default)s)")


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a model of yours, which draws the pictures").add_argument
    add("--base", type=path_of, help="diffusers folder or checkpoint file; draws one picture for each example")
    add("--control", type=path_of, metavar="FILE", help="control model; without it the base draws alone")
    add("--weight", type=float, default=1.0, help="of the control (default: %(default)s)")
    add("--steps", type=int, default=STEPS, help="(default: %(default)s)")
    add("--guidance", type=float, default=GUIDANCE, help="(default: %(default)s)")
    add("--scheduler", default="unipc", help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of the first picture; each has one more (default: %(default)s)")
    add("--device", default="auto", help="(default: %(default)s)")


def _add_measures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("measures, from weights on this disk").add_argument
    add("--reference", type=path_of, metavar="FOLDER", help="real pictures, for FID; needs --inception or --clip")
    add("--fid-features", choices=FEATURES, help="default: inception where it is given, else clip")
    add(
        "--inception",
        type=path_of,
        metavar="FILE",
        help="Inception's weights, for FID; needs the package torch-fidelity",
    )
    add("--clip", type=path_of, metavar="FOLDER", help="CLIP of transformers: CLIP score, and FID without --inception")
    add("--aesthetic", type=path_of, metavar="FILE", help="LAION's aesthetic head; needs --clip ViT-L/14")
    add("--lpips", type=path_of, metavar="FILE", help="torchvision's AlexNet, for LPIPS of soft edges")
    add("--detect", metavar="NAME", help="preprocessor that sees the hint in a drawn picture; default: --hint")
    add("--fidelity", choices=(*KINDS, "none"), help="how hints are compared; default: as their preprocessor says")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was said about an evaluation of one's own pictures, each option by its name."""

    out: Path
    pictures: Path | None
    data: Path | None
    hints: HintSource
    picture_column: str | None
    caption_column: str | None
    resolution: int
    limit: int
    base: Path | None
    control: Path | None
    weight: float
    steps: int
    guidance: float
    scheduler: str
    seed: int
    device: str
    reference: Path | None
    fid_features: str | None
    inception: Path | None
    clip: Path | None
    aesthetic: Path | None
    lpips: Path | None
    detect: str | None
    fidelity: str | None
    save_every: int

    def __post_init__(self) -> None:
        """Raise HintError for options that make no sense together."""
        from ....core.errors import HintError

        for reason, said in (
            ("--pictures and --base are both given: judge pictures that there are, or draw them", self._both),
            ("--base draws a picture for each example: name them with --data", self.base and not self.data),
            ("--control needs the base that it acts on: give --base", self.control and not self.base),
            ("--control needs hints: name a preprocessor with --hint, or a column with --hint-column", self._hintless),
            ("--reference needs features: give --inception or --clip", self.reference and not self._features),
            (f"--fid-features {self.fid_features} needs --{self.fid_features}", self._lacks_features),
            ("--aesthetic needs --clip, whose embeddings it reads", self.aesthetic and not self.clip),
            (f"--limit is {self.limit}, expected 0 (all) or more", self.limit < 0),
            (f"--save-every is {self.save_every}, expected 1 or more", self.save_every < 1),
            (f"--weight is {self.weight}, expected a finite number", not math.isfinite(self.weight)),
        ):
            if said:
                raise HintError(reason)

    @property
    def features(self) -> str:
        """Return which features FID compares."""
        return self.fid_features or ("inception" if self.inception else "clip")

    @property
    def has_hints(self) -> bool:
        """Return whether the data has hints, or they are made."""
        return self.hints.preprocessor is not None or self.hints.column is not None

    @property
    def detector(self) -> str | None:
        """Return the name of the preprocessor that sees the hint in a drawn picture."""
        return self.detect or self.hints.preprocessor

    @property
    def _both(self) -> bool:
        return self.pictures is not None and self.base is not None

    @property
    def _hintless(self) -> bool:
        return self.control is not None and not self.has_hints

    @property
    def _features(self) -> bool:
        return self.inception is not None or self.clip is not None

    @property
    def _lacks_features(self) -> bool:
        return self.fid_features is not None and getattr(self, self.fid_features) is None


def asked(args: argparse.Namespace) -> Asked:
    """Return what the options say. HintError for what makes no sense."""
    from ....core.errors import HintError
    from ...data.hints import HintSource
    from ...options import parameters_of

    if args.out is None:
        raise HintError("--out is missing: name a folder for the results")
    names = [name for name in Asked.__slots__ if name != "hints"]
    hints = HintSource(args.hint_column, args.hint, parameters_of(args.hint_parameters))
    return Asked(**{name: getattr(args, name) for name in names}, hints=hints)
