"""The commands of the standalone edge: `demo`, `generate`, `preprocess`, `inspect`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .generating import run_generate
from .page.serving import add_parser as add_serve

if TYPE_CHECKING:
    from ..preprocessors.perform import Runtime

DTYPES = ("fp32", "fp16", "bf16")
AUTO = "auto"  # of --device
SHOWN = 5  # names in a message
PACKAGES = "preprocessors"  # what `get` brings beside weights


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount the commands."""
    demo = commands.add_parser("demo", help="draw one sheet with the shipped tiny model")
    demo.add_argument("--output", type=Path, default=Path(), metavar="FOLDER")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)
    _add_generate(commands.add_parser("generate", help="draw pictures under control of units"))
    _add_again(commands.add_parser("again", help="draw a picture once more from the record in it"))
    _add_preprocess(commands.add_parser("preprocess", help="turn pictures into hints"))
    add_serve(commands.add_parser("serve", help="open a page in the browser: units, pictures, comparisons, an API"))
    _add_get(commands.add_parser("get", help="get packages and weights of preprocessors"))
    units = commands.add_parser("units", help="say what a --unit may hold, as a table")
    units.set_defaults(run=_units)
    show = commands.add_parser("inspect", help="say what a control model file is")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_inspect)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base", type=Path, required=True, help="diffusers folder or checkpoint file")
    add("--prediction", choices=("epsilon", "v_prediction"), help="what a checkpoint file predicts, if it does not say")
    add("--unit", action="append", default=[], metavar="NAME=VALUE,...", help="a unit; repeat it to stack")
    add("--prompt", action="append", help="what to draw; repeat it for a picture each; default: none")
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
    add("--seed", type=int, default=-1, help="of the first picture, the next one's is one more; default: -1, by chance")
    add("--batch", type=int, help="how many pictures; default: one for each prompt")
    add("--at-once", type=int, default=4, help="pictures that are drawn together; default: %(default)s")
    add("--width", type=int, help="pixels; default: of --image, else what the base model was trained on")
    add("--height", type=int, help="as --width")
    add("--scheduler", default="unipc")
    add("--eta", type=float, default=0.0, help="of DDIM")
    add("--image", type=Path, help="start from this picture")
    add("--resume", action="store_true", help="of folders and videos, skip what was drawn from the same before")
    add("--mask", type=Path, help="redraw only what is white in this picture, of the size of --image")
    add("--strength", type=float, default=0.75, help="how far it may change, up to 1; default: %(default)s")
    add("--device", default="auto", help="such as cuda or cpu; default: auto, the GPU if PyTorch has one")
    add("--dtype", choices=DTYPES, default="fp32")
    add("--offload", choices=("none", "model", "sequential"), default="none")
    add("--output", type=Path, default=Path("output"), metavar="FOLDER")
    parser.set_defaults(run=run_generate)


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
    add(
        "--resume",
        action="store_true",
        help="skip what an earlier run has made of the same content with the same settings",
    )
    add("--download", action="store_true", help="get the weights that are missing")
    add("--weights", type=Path, action="append", default=[], metavar="FOLDER", help="look for weights here as well")
    add("--device", default="auto", help="such as cuda or cpu; default: auto, the GPU if PyTorch has one")
    add("--output", type=Path, default=Path("hints"), metavar="FOLDER")
    parser.set_defaults(run=_preprocess)


def _add_get(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = (
        f"{PACKAGES}: every package that they use, each with its size and licence; or a name: the weights of that one"
    )
    add("what", nargs="+", metavar="NAME", help=what)
    parser.set_defaults(run=_get)


def _add_again(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("picture", type=Path, help="a PNG file that `controlstack generate` or a script wrote")
    add("--base", type=Path, help="where the base model lies now, if not where the record says")
    add("--device", help="default: the one that the picture was drawn on")
    add("--output", type=Path, default=Path("output"), metavar="FOLDER")
    parser.set_defaults(run=_again)


def _get(args: argparse.Namespace) -> int:
    from ..preprocessors import find
    from ..preprocessors.networks.store import Store, default_folder
    from .availability import download_missing, get_packages

    wanted = [find(name) for name in args.what if name != PACKAGES]  # names fail before anything is fetched
    code = get_packages() if PACKAGES in args.what else 0
    store = Store(default_folder())
    for each in wanted:
        download_missing(each, store)
        print(f"{each.id}: its weights are there")
    return code


def _again(args: argparse.Namespace) -> int:
    from ..preprocessors.images import check_folder

    _check_path(args.picture, "picture")
    check_folder(args.output)

    from .again import draw_again

    written = draw_again(args.picture, args.output, base=args.base, device=args.device)
    print(f"wrote {len(written)} pictures to {args.output}: {', '.join(path.name for path in written)}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    run_demo(args.output, args.seed)
    return 0


def _units(_args: argparse.Namespace) -> int:
    from ..units import options
    from ..units.request import describe

    print(describe(), options.describe(), sep="\n\n")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    _check_path(args.file, "model")

    from ..models.registry import inspect

    found = asdict(inspect(args.file))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        print(f"{name:<12}{_short(value)}")
    return 0


def _check_path(path: Path, what: str) -> None:
    """Raise FileError for a path that leads nowhere, before anything that takes seconds is imported."""
    from ..core.errors import FileError

    if not path.exists():
        raise FileError(f"there is no {what} {path}: check the path")


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
    from .sources import is_pattern
    from .units import parse_parameters

    runtime = _runtime(args)
    if args.list:
        for line in table(runtime, [args.preprocessor] if args.preprocessor else []):
            print(line)
        return 0
    if args.preprocessor is None or not args.sources:
        raise PreprocessorError("expected a preprocessor and pictures: controlstack preprocess canny photo.png")
    preprocessor = find(args.preprocessor)
    if len(args.sources) == 1 and not is_pattern(args.sources[0]):
        _check_path(args.sources[0].expanduser(), "picture")
    from .preprocessing import Job, run_job

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
    others = f", left out {done.left_out}, which are no pictures that can be read here" if done.left_out else ""
    print(f"wrote {done.written} hints to {args.output}{there}{hints}{others}")
    if done.black:
        print(f"WARNING: {preprocessor.id} found nothing, so the hint is black, in {_names(done.black)}")
    return 0


def _names(paths: Sequence[Path]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(path.name for path in paths[:SHOWN]) + more


def _runtime(args: argparse.Namespace) -> Runtime:
    from ..preprocessors.networks.pool import PlainManager, Pool
    from ..preprocessors.networks.store import Store, default_folder
    from ..preprocessors.perform import Runtime

    device = None if args.device == AUTO else args.device
    return Runtime(store=Store(default_folder(), args.weights), pool=Pool(PlainManager(device)))
