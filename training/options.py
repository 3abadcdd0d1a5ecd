"""The options of `controlstack train`: each is a setting of `settings.py`, said on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.files import path_of
from ..units.once import Once
from . import choices
from .choices import COPY, GAUSSIAN, OPTIMISERS, PRECISIONS, SCHEDULES, TIMES, UNLOCKS

if TYPE_CHECKING:
    from .data.hints import Kind
    from .settings import Settings

COLUMN = "column:"  # before the name of a column that holds hints

EXAMPLE = """\
examples:
  controlstack train --base sd15.safetensors --data pictures --hint canny --resolution 512 \\
      --batch 4 --accumulate 8 --mixed-precision bf16 --gradient-checkpointing --out canny.safetensors
  controlstack train --base sd15.safetensors --data pictures --hint canny --out canny.safetensors --plan

The second counts examples, parameters and memory, and trains nothing: say it first.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser every option of a training, in groups."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    _add_what(parser)
    _add_data(parser)
    _add_learning(parser)
    _add_computing(parser)
    _add_seen(parser)


def settings_of(args: argparse.Namespace) -> Settings:
    """Return what the options say. ScheduleError or HintError for what makes no sense."""
    from .data.hints import HintSource
    from .settings import Settings

    names = [
        name
        for name in Settings.__slots__
        if hasattr(args, name) and name not in ("hints", "kinds", "start", "schedule")
    ]
    given = {name: getattr(args, name) for name in names}
    given["steps"] = _steps_of(args)
    for name in ("sample_prompts", "sample_hints", "trackers"):
        given[name] = tuple(given[name])
    return Settings(
        **given,
        start=args.start if args.start in (None, COPY, GAUSSIAN) else Path(args.start),
        schedule="cosine" if args.cosine else args.schedule,
        hints=HintSource(args.hint_column, args.hint, parameters_of(args.hint_parameters)),
        kinds=tuple(kind_of(text, args.family) for text in args.kinds),
    )


def check_changes(names: Sequence[str], *, resumed: bool) -> None:
    """Raise ScheduleError for a --change that changes nothing: of no setting, or without --resume."""
    from ..core.errors import ScheduleError
    from .settings import Settings

    if names and not resumed:
        raise ScheduleError("--change says what a resumed training may have otherwise: add --resume, or leave it out")
    known = [name.replace("_", "-") for name in Settings.__slots__]
    for name in names:
        if name.lstrip("-").replace("_", "-") not in known:
            near = get_close_matches(name, known, n=3) or known
            raise ScheduleError(f"--change is '{name}', expected a setting: did you mean {' or '.join(near)}?")


def _steps_of(args: argparse.Namespace) -> int:
    """Return the steps that were said, or the usual ones. ScheduleError where the epochs say another number."""
    from ..core.errors import ScheduleError

    if args.steps is not None and args.epochs:
        raise ScheduleError(
            f"--steps {args.steps} and --epochs {args.epochs:g} both say how long: leave one of them out"
        )
    return choices.STEPS if args.steps is None else args.steps


def kind_of(text: str, family: str) -> Kind:
    """Return `KIND=SOURCE` read, of a family that tells kinds of hints apart.

    SOURCE is `column:NAME`, or a preprocessor with its parameters in brackets.
    """
    from ..core.errors import HintError, ScheduleError
    from .data.hints import HintSource, Kind
    from .recipes.registry import find_recipe

    word, equals, source = text.partition("=")
    option = find_recipe(family).kinds
    if option is None:
        raise ScheduleError(f"--kind is of another family than {family}: leave it out")
    kind = option.find(word)
    if not equals or kind is None:
        raise HintError(f"--kind is '{text}', expected KIND=SOURCE with one of {option.expected} ({option.name})")
    if source.startswith(COLUMN):
        return Kind(kind, HintSource(source[len(COLUMN) :]))
    name, _, rest = source.partition("(")
    return Kind(kind, HintSource(None, name, parameters_of(rest.removesuffix(")"))))


def parameters_of(text: str) -> dict[str, float]:
    """Return `name=value,...` as numbers. PreprocessorError for what is none."""
    from ..core.errors import PreprocessorError

    numbers: dict[str, float] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        try:
            numbers[name.strip()] = float(value) if "." in value else int(value)
        except ValueError:
            raise PreprocessorError(f"--hint-parameters holds '{pair}', expected name=number") from None
    return numbers


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is trained").add_argument
    base = "diffusers folder or checkpoint file of the base model, which stays as it is"
    add("--base", type=path_of, required=True, help=base)
    add("--out", type=path_of, required=True, help="the .safetensors file to write")
    add("--family", choices=choices.FAMILIES, default=choices.FAMILIES[0], help="(default: %(default)s)")
    add(
        "--start",
        metavar="copy|gaussian|FILE",
        help="a copy of the base behind zero convolutions, behind Gaussian ones, or a file to go on from, or, of a "
        "ctrlora, to train on; default: as the family starts",
    )
    add("--only-middle", action="store_true", help="train the middle residual alone")
    add("--size-ratio", type=float, metavar="SHARE", help="widths of a controlnet-xs by the base's; default: 0.1")
    add("--rank", type=int, metavar="N", help="of the factors of a ctrlora; default: 128")
    add("--unlock", choices=UNLOCKS, help="train this part of the base along; written beside the control")
    add("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the written file (default: %(default)s)")
    add("--diffusers", action="store_true", help="write a diffusers folder too, OUT with the suffix .diffusers")
    add("--plan", action="store_true", help="say what would be trained, and how much memory it takes; train nothing")


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        type=path_of,
        action=Once,
        required=True,
        help="folder, or listing, of pictures with hints and words; docs/training.md",
    )
    add("--hint", metavar="NAME", help="preprocessor that makes the hints from the pictures, such as canny")
    add(
        "--kind",
        dest="kinds",
        action="append",
        default=[],
        metavar="KIND=SOURCE",
        help="one kind of a union's hints, such as canny=canny(low=50,high=100) or depth=column:NAME; repeat",
    )
    add("--hint-parameters", default="", metavar="NAME=VALUE,...", help="its parameters")
    add("--picture-column", metavar="NAME", help="column of the data that names the pictures")
    add("--hint-column", metavar="NAME", help="column that names the hints, or their folder")
    add("--caption-column", metavar="NAME", help="column that holds the words")
    add("--check", action="store_true", help="read every example first, hints too; small sets are always read")
    add("--skip-bad", action="store_true", help="leave out examples that cannot be used, and count them")
    add("--resolution", type=int, default=0, metavar="PIXELS", help="cut pictures and hints to squares; default: not")
    add(
        "--buckets",
        action="store_true",
        help="cut to sizes near the pictures' own shapes, of the square's area at most",
    )
    add("--random-crop", action="store_true", help="cut any square, not the middle one")
    add("--mirror", action="store_true", help="show half of the examples mirrored; not for hints with left and right")
    add("--workers", type=int, default=0, metavar="N", help="threads that read pictures ahead (default: %(default)s)")
    add("--cache", type=path_of, metavar="FOLDER", help="encode pictures and words once, and keep that here")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("learning").add_argument
    add("--steps", type=int, help=f"of the optimiser (default: {choices.STEPS})")
    add("--epochs", type=float, default=0.0, metavar="N", help="passes over the data, instead of --steps")
    add("--batch", type=int, default=choices.BATCH, help="examples at once (default: %(default)s)")
    add("--accumulate", type=int, default=1, help="batches per step of the optimiser (default: %(default)s)")
    add("--optimiser", choices=OPTIMISERS, default=OPTIMISERS[0], help="(default: %(default)s)")
    rate = "default: the family's, 1e-5 of a ControlNet; 1 for prodigy, which finds it"
    add("--learning-rate", type=float, help=rate)
    add("--weight-decay", type=float, metavar="SHARE", help="default: the optimiser's, 0.01 but for sgd")
    add("--unlock-rate", type=float, metavar="RATE", help="learning rate of weights of the base; default: the family's")
    add("--schedule", choices=SCHEDULES, default=SCHEDULES[0], help="of the rates (default: %(default)s)")
    add("--cosine", action="store_true", help="the same as --schedule cosine")
    add("--cycles", type=int, default=1, metavar="N", help="of cosine_with_restarts (default: %(default)s)")
    add("--power", type=float, default=1.0, help="of polynomial (default: %(default)s, a line)")
    pieces = "of piecewise_constant: factors of the rates with the steps that end them, such as 1:1000,0.1:3000,0.01"
    add("--pieces", metavar="RULES", help=pieces)
    add("--warm-up", type=int, default=choices.WARM_UP, metavar="STEPS", help="the rates rise (default: %(default)s)")
    add(
        "--empty-prompts",
        type=float,
        metavar="SHARE",
        help="prompts that are emptied; default: the family's, 0.5 of a ControlNet",
    )
    add(
        "--empty-hints",
        type=float,
        metavar="SHARE",
        help="hints that are blacked out; default: the family's, none of a ControlNet",
    )
    add("--times", choices=TIMES, help="density of the times; default: the family's")
    add(
        "--min-snr", type=float, default=0.0, metavar="GAMMA", help="weigh the loss by min-SNR, such as 5; default: not"
    )
    add("--noise-offset", type=float, default=0.0, metavar="SHARE", help="such as 0.05; default: none")
    add("--max-grad-norm", type=float, default=1.0, metavar="NORM", help="(default: %(default)s)")
    add("--ema", type=float, default=0.0, metavar="DECAY", help="write a moving average, such as 0.999; default: none")
    add("--seed", type=int, default=0, help="(default: %(default)s)")


def _add_computing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("computing").add_argument
    add("--mixed-precision", choices=PRECISIONS, default="no", help="(default: %(default)s)")
    add("--gradient-checkpointing", action="store_true", help="less memory, a third more time")


def _add_seen(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is seen, and what is kept").add_argument
    add(
        "--samples", type=int, default=0, metavar="N", help="draw a sheet at the start and every N steps; default: none"
    )
    add(
        "--sample-prompt",
        dest="sample_prompts",
        action="append",
        default=[],
        metavar="WORDS",
        help="of a sample; repeat",
    )
    add(
        "--sample-hint",
        dest="sample_hints",
        action="append",
        type=path_of,
        default=[],
        metavar="FILE",
        help="its hint, or with --hint its picture",
    )
    add(
        "--sample-steps",
        type=int,
        default=choices.SAMPLE_STEPS,
        help="denoising steps of a sample (default: %(default)s)",
    )
    add(
        "--sample-guidance",
        type=float,
        default=choices.SAMPLE_GUIDANCE,
        help="guidance scale of the samples (default: %(default)s)",
    )
    add(
        "--tracker",
        dest="trackers",
        action="append",
        default=[],
        choices=("tensorboard", "wandb"),
        help="report there too",
    )
    add(
        "--save-every",
        type=int,
        default=choices.SAVE_EVERY,
        metavar="STEPS",
        help="write checkpoint and snapshot (default: %(default)s)",
    )
    add("--keep", type=int, default=choices.KEEP, metavar="N", help="snapshots that stay (default: %(default)s)")
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--change", action="append", default=[], metavar="OPTION", help="with --resume: it may differ from the start")
