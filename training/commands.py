"""The commands of training: `train`, `evaluate`, and `tiny`, which makes the tiny world again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.files import replacing
from . import evaluate_command
from .tiny import commands as tiny

if TYPE_CHECKING:
    from .control import Run, Settings


INTERRUPTED = 130  # exit code after Ctrl-C


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount `train`, `evaluate` and `tiny`."""
    _add_train(subparsers.add_parser("train", help="train a ControlNet", description=__doc__))
    evaluate_command.add_arguments(subparsers.add_parser("evaluate", help="measure how well pictures obey their hints"))
    world = subparsers.add_parser("tiny", help="make the tiny world again", description=tiny.__doc__)
    tiny.add_parsers(world.add_subparsers(required=True, metavar="COMMAND"))


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--base",
        type=Path,
        required=True,
        help="diffusers folder or checkpoint file of the base model, which stays as it is",
    )
    add("--data", type=Path, required=True, help="folder with prompt.json or metadata.jsonl")
    add("--out", type=Path, required=True, help="the .safetensors file to write")
    add("--start", type=Path, help="go on from this ControlNet file; default: from a fresh copy of the base")
    add("--hint", help="preprocessor that makes the hints from the pictures, such as canny")
    add("--hint-parameters", default="", metavar="NAME=VALUE,...", help="its parameters")
    add("--hint-column", help="column of metadata.jsonl that names the hint files")
    add("--resolution", type=int, default=0, help="cut pictures and hints to squares of so many pixels; default: not")
    add("--steps", type=int, default=6000)
    add("--batch", type=int, default=4)
    add("--accumulate", type=int, default=1, help="batches per step of the optimiser")
    add("--learning-rate", type=float, default=1e-5)
    add("--warm-up", type=int, default=100, help="steps over which the learning rate rises")
    add("--cosine", action="store_true", help="let the learning rate fall to zero at the end")
    add("--empty-prompts", type=float, default=0.5, help="share of prompts that are emptied")
    add("--max-grad-norm", type=float, default=1.0)
    add("--mixed-precision", choices=("no", "fp16", "bf16"), default="no")
    add("--only-middle", action="store_true", help="train the middle residual alone")
    add("--ema", type=float, default=0.0, metavar="DECAY", help="write a moving average, such as 0.999; default: none")
    add("--samples", type=int, default=0, metavar="N", help="steps between sheets of samples, in OUT's .samples folder")
    add("--sample-steps", type=int, default=20, help="denoising steps of a sample")
    add("--sample-guidance", type=float, default=7.5, help="guidance scale of the samples")
    add("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the written file")
    add("--save-every", type=int, default=1000, help="steps between checkpoints, in OUT with the suffix .state")
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--seed", type=int, default=0)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from ..core.errors import ModelError
    from ..preprocessors.images import check_folder
    from .control import start, train
    from .progress import Watch, interrupts_wait, write_curve

    if args.out.suffix != ".safetensors" or args.out.is_dir():
        raise ModelError(f"--out is '{args.out}', expected the name of a .safetensors file")
    check_folder(args.out.parent)
    run = start(_settings(args))
    state = args.out.with_suffix(".state")
    if args.resume:
        run.load(state)
    first = run.accelerator.is_main_process
    watch = Watch(args.steps, done=run.step)
    with interrupts_wait() as interrupted:
        for loss in train(run):
            if first:
                watch.add(loss)
            if first and args.samples and run.step % args.samples == 0:
                _sample(run, args.out.with_suffix(".samples"))
            stop = run.any_process(interrupted())
            if stop or run.step % args.save_every == 0:
                run.save(state)
            if stop:
                print(f"stopped after step {run.step}; go on with --resume", file=sys.stderr)
                return INTERRUPTED
    if first:
        _write(run, args.out, args.dtype)
        write_curve(run.losses, args.out.with_suffix(".png"))
    run.accelerator.end_training()
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    from ..core.errors import ScheduleError
    from .control import Settings
    from .data import HintSource

    for name in ("steps", "batch", "accumulate", "save_every"):
        if getattr(args, name) < 1:
            raise ScheduleError(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected 1 or more")
    return Settings(
        base=args.base,
        data=args.data,
        start=args.start,
        hints=HintSource(args.hint_column, args.hint, _parameters(args.hint_parameters)),
        resolution=args.resolution,
        steps=args.steps,
        batch=args.batch,
        accumulate=args.accumulate,
        learning_rate=args.learning_rate,
        warm_up=args.warm_up,
        cosine=args.cosine,
        empty_prompts=args.empty_prompts,
        max_grad_norm=args.max_grad_norm,
        mixed_precision=args.mixed_precision,
        only_middle=args.only_middle,
        ema=args.ema,
        samples=args.samples,
        sample_steps=args.sample_steps,
        sample_guidance=args.sample_guidance,
        seed=args.seed,
    )


def _parameters(text: str) -> dict[str, float]:
    """`name=value,...` -> numbers."""
    from ..core.errors import PreprocessorError

    numbers: dict[str, float] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        try:
            numbers[name.strip()] = float(value) if "." in value else int(value)
        except ValueError:
            raise PreprocessorError(f"--hint-parameters holds '{pair}', expected name=number") from None
    return numbers


def _sample(run: Run, folder: Path) -> None:
    """A sheet of what the network can do at this step."""
    from ..preprocessors.images import write_image
    from .samples import sample_sheet

    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / f"{run.step:06d}.png", sample_sheet(run))


def _write(run: Run, path: Path, dtype: str) -> None:
    """Write the trained file, whole or not at all."""
    from safetensors.torch import save_file

    from ..pipelines.bases import DTYPES
    from .control import metadata

    tensors = {key: value.to(DTYPES[dtype]).contiguous().cpu() for key, value in run.result.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh:
        save_file(tensors, fresh, metadata(run))


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m controlstack.training.commands ...`"""
    parser = argparse.ArgumentParser(prog="controlstack", description=__doc__)
    add_parsers(parser.add_subparsers(required=True, metavar="COMMAND"))
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
