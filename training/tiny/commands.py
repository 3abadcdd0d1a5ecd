"""The commands that make the tiny world again: `dataset`, `autoencoder`, `base`, `decoder`."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.files import path_of

if TYPE_CHECKING:
    from .base import Base
    from .loop import Training

ORIGIN = "_name_or_path"  # of a diffusers configuration: where it was loaded from
LAST_SEED = 2**63 - 1  # of torch's generators
INTERRUPTED = 130  # the exit code of a command stopped by Ctrl-C


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount the commands."""
    for name, run, count, what in (
        ("dataset", _dataset, 6000, "draw scenes with captions and depth maps into an image folder"),
        ("autoencoder", _autoencoder, 900, "train the autoencoder"),
        ("base", _base, 3600, "train the base model around a trained autoencoder"),
        ("decoder", _decoder, 2000, "train the decoder of an autoencoder on; its latents stay as they are"),
    ):
        parser = subparsers.add_parser(name, help=what, description=what)
        parser.add_argument("--out", type=path_of, required=True, help="folder to write")
        parser.add_argument("--seed", type=int, default=0)
        label = "--count" if name == "dataset" else "--steps"
        parser.add_argument(label, dest="count", type=int, default=count)
        if name == "decoder":
            parser.add_argument("--vae", type=path_of, required=True, help="folder that `autoencoder` wrote")
        if name == "base":
            origin = parser.add_mutually_exclusive_group(required=True)
            origin.add_argument("--vae", type=path_of, help="folder that `autoencoder` wrote, for a new base")
            origin.add_argument("--start", type=path_of, help="folder of a trained base, to train it on")
            parser.add_argument("--learning-rate", type=float, default=1.5e-3)
        if name != "dataset":
            parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
            parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, OUT.state")
        parser.set_defaults(run=partial(_checked, run))


def _checked(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command whose numbers and folders make sense; ControlError for others, before any work."""
    from ...core.errors import ScheduleError
    from ...preprocessors.images import check_folder
    from ..results.files import check_new

    numbers = {"the count or steps": args.count, "--save-every": getattr(args, "save_every", 1)}
    for name, value in numbers.items():
        if value < 1:
            raise ScheduleError(f"{name} is {value}, expected 1 or more")
    if not 0 < getattr(args, "learning_rate", 1.0) < math.inf:
        raise ScheduleError(f"--learning-rate is {args.learning_rate}, expected more than 0")
    if not 0 <= args.seed <= LAST_SEED:
        raise ScheduleError(f"--seed is {args.seed}, expected 0 to {LAST_SEED}")
    check_folder(args.out.parent)
    if getattr(args, "vae", None):
        _check_file(args.vae / "config.json", "give a folder that `autoencoder` wrote as --vae")
    if getattr(args, "start", None):
        _check_file(args.start / "model_index.json", "give a folder that `base` wrote as --start")
    if getattr(args, "resume", False):
        _check_file(args.out.with_suffix(".state"), "leave --resume out to start from the beginning")
    else:
        check_new(args.out, "go on with it by --resume" if args.out.with_suffix(".state").is_file() else "")
    return run(args)


def _check_file(path: Path, advice: str) -> None:
    from ...core.errors import HostError

    if not path.is_file():
        raise HostError(f"there is no file '{path}': {advice}")


def _dataset(args: argparse.Namespace) -> int:
    from ..results.files import replace_folder
    from .scenes import write_dataset

    def write(folder: Path) -> None:
        write_dataset(folder, args.count, args.seed)

    replace_folder(args.out, write)
    return 0


def _autoencoder(args: argparse.Namespace) -> int:
    import torch

    from .autoencoder import autoencoder_training, new_autoencoder, set_scale

    def save(folder: Path) -> None:
        set_scale(vae, args.seed)
        vae.save_pretrained(folder)

    torch.manual_seed(args.seed)
    vae = new_autoencoder()
    return _train(autoencoder_training(vae, args.count, args.seed), args, save)


def _decoder(args: argparse.Namespace) -> int:
    from diffusers import AutoencoderTiny

    from .autoencoder import decoder_training

    vae = AutoencoderTiny.from_pretrained(args.vae)
    return _train(decoder_training(vae, args.count, args.seed), args, vae.save_pretrained)


def _base(args: argparse.Namespace) -> int:
    import torch

    from .base import averaged, base_training, load_base

    def save(folder: Path) -> None:
        with averaged(training):
            base.save(folder)

    torch.manual_seed(args.seed)
    base = load_base(args.start) if args.start else _fresh_base(args)
    training = base_training(base, args.count, args.seed, args.learning_rate)
    return _train(training, args, save)


def _fresh_base(args: argparse.Namespace) -> Base:
    from diffusers import AutoencoderTiny

    from .base import new_base

    work = args.out.with_suffix(".work")
    base = new_base(AutoencoderTiny.from_pretrained(args.vae), work)
    shutil.rmtree(work)
    return base


def _train(training: Training, args: argparse.Namespace, save: Callable[[Path], object]) -> int:
    """Run a training to its end; every so often leave its state and what it has made so far."""
    from ..report.bars import steps_bar
    from ..report.curve import recent, write_curve

    state = args.out.with_suffix(".state")
    if args.resume:
        training.load(state)
    try:
        with steps_bar(args.count, len(training.losses)) as steps:
            for _ in training.run(args.count):
                steps.show(recent(training.losses))
                if len(training.losses) % args.save_every == 0:
                    training.save(state)
                    _write(args.out, save)
    except KeyboardInterrupt:
        # What is in memory may be half a step: only what is on disk counts.
        print(f"stopped; --resume goes on from the last multiple of {args.save_every} steps", file=sys.stderr)
        return INTERRUPTED
    _write(args.out, save)
    write_curve(training.losses, args.out.with_suffix(".png"))
    state.unlink(missing_ok=True)
    return 0


def _write(folder: Path, save: Callable[[Path], object]) -> None:
    """Save without a word about this machine: diffusers writes down from which folder a network was loaded."""
    from ..results.files import replace_folder

    def save_without_origin(fresh: Path) -> None:
        save(fresh)
        for path in fresh.rglob("*.json"):
            config = json.loads(path.read_text(encoding="utf-8"))
            if config.pop(ORIGIN, None) is not None:
                path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    replace_folder(folder, save_without_origin)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m controlstack.training.tiny.commands ...`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="controlstack tiny", description=__doc__)
    add_parsers(parser.add_subparsers(required=True))
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
