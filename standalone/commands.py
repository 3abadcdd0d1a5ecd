"""The commands of the standalone edge: `demo`, `generate`, `preprocess`, `inspect`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..pipelines.drawing import Request, Result
    from ..preprocessors.perform import Runtime
    from ..units.ready import Ready
    from ..units.request import UnitRequest

DTYPES = ("fp32", "fp16", "bf16")
DEFAULT_SIDE = 512


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount the commands."""
    demo = commands.add_parser("demo", help="draw one sheet with the shipped tiny model")
    demo.add_argument("--output", type=Path, default=Path(), metavar="FOLDER")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)
    _add_generate(commands.add_parser("generate", help="draw pictures under control of units"))
    _add_preprocess(commands.add_parser("preprocess", help="turn pictures into hints"))
    show = commands.add_parser("inspect", help="say what a control model file is")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_inspect)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base", type=Path, required=True, help="diffusers folder or checkpoint file")
    add("--prediction", choices=("epsilon", "v_prediction"), help="what a checkpoint file predicts, if it does not say")
    add("--unit", action="append", default=[], metavar="NAME=VALUE,...", help="a unit; repeat it to stack")
    add("--prompt", help="default: none with units, so that only they speak")
    add("--prompt-kind", choices=("none", "default", "user", "automatic"), help="the prompt kinds of the papers")
    add(
        "--captioner",
        type=Path,
        help="folder of a captioning model, for automatic prompts; it sees --image, else the first unit's picture",
    )
    add("--added-prompt", default="", help="words after the prompt")
    add("--negative", default="", help="what the picture should not show")
    add("--steps", type=int, default=20)
    add("--guidance", type=float, default=7.5)
    add("--seed", type=int, default=0)
    add("--batch", type=int, default=1)
    add("--width", type=int, default=DEFAULT_SIDE)
    add("--height", type=int, default=DEFAULT_SIDE)
    add("--scheduler", default="unipc")
    add("--eta", type=float, default=0.0, help="of DDIM")
    add("--image", type=Path, help="start from this picture")
    add("--strength", type=float, default=0.75, help="how much of it is redrawn")
    add("--device", default="cpu")
    add("--dtype", choices=DTYPES, default="fp32")
    add("--offload", choices=("none", "model", "sequential"), default="none")
    add("--output", type=Path, default=Path("output"), metavar="FOLDER")
    parser.set_defaults(run=_generate)


def _add_preprocess(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("preprocessor", nargs="?", help="its name; with --list, a word to look for")
    add("sources", type=Path, nargs="*", metavar="picture", help="pictures, videos, and folders of them")
    add("--list", action="store_true", help="show all preprocessors, what they miss, and the licences of weights")
    add("--resolution", type=int, help="short side in pixels; default: as the picture")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter")
    add("--seed", type=int, default=0, help="of preprocessors that draw lots")
    add("--mask", type=Path, help="what is to be invented, in white; for inpaint preprocessors")
    add("--frames", action="store_true", help="make of a video a folder of pictures")
    add("--poses", action="store_true", help="write the poses as JSON too; such a file may be given as a picture")
    add("--resume", action="store_true", help="skip what an earlier run with the same settings has made")
    add("--download", action="store_true", help="get the weights that are missing")
    add("--weights", type=Path, action="append", default=[], metavar="FOLDER", help="look for weights here as well")
    add("--device", help="default: the GPU, if PyTorch has one")
    add("--output", type=Path, default=Path("hints"), metavar="FOLDER")
    parser.set_defaults(run=_preprocess)


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    run_demo(args.output, args.seed)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ..models.registry import inspect

    found = asdict(inspect(args.file))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        print(f"{name:<12}{_short(value)}")
    return 0


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "none"
    if isinstance(value, (tuple, list)):
        return f"{len(value)}: {', '.join(map(str, value[:5]))}" if value else "nothing"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _preprocess(args: argparse.Namespace) -> int:
    from ..core.errors import PreprocessorError
    from ..preprocessors import find
    from .availability import download_missing, table
    from .preprocessing import Job, run_job
    from .units import parse_parameters

    runtime = _runtime(args)
    if args.list:
        for line in table(runtime, [args.preprocessor] if args.preprocessor else []):
            print(line)
        return 0
    if args.preprocessor is None or not args.sources:
        raise PreprocessorError("expected a preprocessor and pictures: controlstack preprocess canny photo.png")
    preprocessor = find(args.preprocessor)
    job = Job(
        preprocessor=preprocessor,
        sources=args.sources,
        output=args.output,
        parameters=parse_parameters(args.set),
        resolution=args.resolution,
        seed=args.seed,
        mask=args.mask,
        frames=args.frames,
        poses=args.poses,
        resume=args.resume,
    )
    if args.download:
        download_missing(preprocessor, runtime.store)
    done = run_job(job, runtime)
    there = f", {done.skipped} were there" if done.skipped else ""
    hints = f", left out {done.hints} that are hints already" if done.hints else ""
    print(f"wrote {done.written} hints to {args.output}{there}{hints}")
    return 0


def _runtime(args: argparse.Namespace) -> Runtime:
    from ..preprocessors.networks.pool import PlainManager, Pool
    from ..preprocessors.networks.store import Store, default_folder
    from ..preprocessors.perform import Runtime

    return Runtime(store=Store(default_folder(), args.weights), pool=Pool(PlainManager(args.device)))


def _generate(args: argparse.Namespace) -> int:
    from ..pipelines.bases import Offload, UnetState, load_base
    from ..pipelines.drawing import generate
    from ..preprocessors.images import check_folder
    from .units import load_units, parse_unit

    check_folder(args.output)
    texts = [parse_unit(text) for text in args.unit]
    request = _request(args, texts)
    dtype = _dtype(args.dtype)
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
    loaded = load_units(texts, (request.height, request.width), dtype, UnetState(load))  # small files fail first
    base = load()
    with _bar(request.steps, "steps") as report:
        result = generate(base, request, [each.unit for each in loaded], report)
    _write(args.output, request, loaded, result)
    return 0


def _request(args: argparse.Namespace, units: Sequence[UnitRequest]) -> Request:
    from ..pipelines.drawing import Request
    from ..preprocessors.images import read_image
    from .prompts import make_prompt

    start = None if args.image is None else read_image(args.image)
    told = start
    if args.prompt_kind == "automatic" and start is None and units:
        picture = units[0].image
        told = read_image(picture) if isinstance(picture, Path) else picture
    return Request(
        prompt=make_prompt(args.prompt_kind, args.prompt, args.added_prompt, args.captioner, told),
        negative=args.negative,
        steps=args.steps,
        guidance=args.guidance,
        seed=args.seed,
        batch=args.batch,
        width=args.width,
        height=args.height,
        scheduler=args.scheduler,
        eta=args.eta,
        image=start,
        strength=args.strength,
    )


def _write(folder: Path, request: Request, loaded: Sequence[Ready], result: Result) -> None:
    """Pictures with what made them, the hints, and a sheet of all."""
    from ..pipelines.sheets import sheet
    from ..preprocessors.images import make_folder, write_image
    from ..units.hint import visible
    from .report import describe, metadata

    make_folder(folder)
    number = 1 + max((int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()), default=0)
    for k, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        write_image(folder / f"{number + k:05d}.png", image, metadata(request, seed, loaded, result.firings))
    for k, each in enumerate(loaded):
        write_image(folder / f"{number:05d}-hint-{k + 1}.png", visible(each.hint))
    cells = [(f"hint {k + 1}", visible(each.hint)) for k, each in enumerate(loaded)]
    cells += [(f"seed {seed}", image) for image, seed in zip(result.images, result.seeds, strict=True)]
    write_image(folder / f"{number:05d}-sheet.png", sheet([cells], side=256))
    for line in describe(loaded, result.firings):
        print(line)
    print(f"wrote {len(result.images)} pictures to {folder}, from {number:05d}.png")


def _dtype(name: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


@contextmanager
def _bar(total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; the value is called with the number of steps done."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=not sys.stderr.isatty()) as shown:

        def report(done: int) -> None:
            shown.update(done - shown.n)

        yield report
