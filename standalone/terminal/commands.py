"""The commands of the standalone edge: `demo`, `generate`, `preprocess`, `inspect`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.wording import counted, print_line
from ..page.serving import add_parser as add_serve
from ..page.serving import run_serve
from . import arguments
from .arguments import AUTO, PACKAGES
from .generating import run_generate
from .inspecting import run_inspect
from .paths import check_path

if TYPE_CHECKING:
    from ...preprocessors.perform import Runtime

SHOWN = 5  # names in a message


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mount the commands."""
    table: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]], ...]
    table = (
        ("demo", "draw one sheet with the shipped tiny model", arguments.add_demo, _demo),
        ("generate", "draw pictures under control of units", arguments.add_generate, run_generate),
        ("again", "draw a picture once more from the record in it", arguments.add_again, _again),
        ("preprocess", "turn pictures into hints", arguments.add_preprocess, _preprocess),
        ("serve", "open a page in the browser: units, pictures, comparisons, an API", add_serve, run_serve),
        ("get", "get models by name, and packages and weights of preprocessors", arguments.add_get, _get),
        ("inspect", "say what control model files are", arguments.add_inspect, run_inspect),
        ("units", "say what a --unit may hold, as a table", arguments.add_units, _units),
    )
    for name, told, add, run in table:
        parser = commands.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
        add(parser)
        parser.formatter_class = arguments.Help
        parser.set_defaults(run=run, parser=parser)


def _get(args: argparse.Namespace) -> int:
    from ...core.errors import PreprocessorError
    from ...preprocessors import find
    from ...preprocessors.networks.store import Store, default_folder
    from ..hub.places import is_name
    from .availability import download_missing, get_packages, models_table

    if args.list or not args.what:
        for line in models_table():
            print(line)
        return 0
    models = [name for name in args.what if is_name(name)]
    try:
        wanted = [find(name) for name in args.what if name not in (PACKAGES, *models)]
    except PreprocessorError as error:  # before anything is fetched
        raise PreprocessorError(f"{error}; models: controlstack get --list, or owner/name of the hub") from error
    code = get_packages() if PACKAGES in args.what else 0
    store = Store(default_folder())
    for each in wanted:
        download_missing(each, store)
        print_line(f"{each.id}: its weights are there")
    for name in models:
        _get_model(name)
    return code


def _get_model(name: str) -> None:
    from ..hub.catalogue import find_known
    from ..hub.fetching import fetch_model
    from ..hub.places import find_model
    from ..progress import download_bar

    known = find_known(name)
    if find_model(name) is None and known is not None:
        print_line(f"{known.about}, {known.size}, {known.licence}, from {known.repository}")
    print_line(f"{name}: {find_model(name) or fetch_model(name, download_bar)}")


def _again(args: argparse.Namespace) -> int:
    from ...preprocessors.images import check_folder

    check_path(args.picture, "picture")
    check_folder(args.output)

    from ...pipelines.libraries import import_libraries

    import_libraries()

    from .again import draw_again

    written = draw_again(args.picture, args.output, base=args.base, device=args.device)
    print_line(f"wrote {counted(len(written), 'picture')} to {args.output}: {', '.join(path.name for path in written)}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from ...pipelines.libraries import import_libraries

    import_libraries()

    from .demo import run_demo

    run_demo(args.output, args.seed)
    return 0


def _units(args: argparse.Namespace) -> int:
    from ...units.request import describe

    print(describe())
    if not args.options:
        print("\nWhat families of models are told beside that: controlstack units --options")
        return 0
    from ...units import options  # torch: seconds

    print(f"\n{options.describe()}")
    return 0


def _preprocess(args: argparse.Namespace) -> int:
    from ...core.errors import PreprocessorError
    from ...preprocessors import find
    from ..media.sources import is_pattern
    from ..units import parse_parameters
    from .availability import download_missing, table
    from .idle import check_used

    runtime = _runtime(args)
    if args.list:
        words = [args.preprocessor] if args.preprocessor else []
        lines = list(table(runtime, words))
        if not lines:
            raise PreprocessorError(
                f"no preprocessor has '{words[0]}' in its name or control type: leave the word out to see all"
            )
        print("\n".join(lines))
        return 0
    if args.preprocessor is None or not args.sources:
        raise PreprocessorError("expected a preprocessor and pictures: controlstack preprocess canny photo.png")
    preprocessor = find(args.preprocessor)
    check_used(args, preprocessor)
    if len(args.sources) == 1 and not is_pattern(args.sources[0]):
        check_path(args.sources[0], "picture")
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
    print_line(f"wrote {counted(done.written, 'hint')} to {args.output}{there}{hints}{others}")
    if done.black:
        print_line(f"WARNING: {preprocessor.id} found nothing, so the hint is black, in {_names(done.black)}")
    return 0


def _names(paths: Sequence[Path]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(path.name for path in paths[:SHOWN]) + more


def _runtime(args: argparse.Namespace) -> Runtime:
    from ...core.errors import FileError
    from ...preprocessors.networks.pool import PlainManager, Pool, find_device
    from ...preprocessors.networks.store import Store, default_folder
    from ...preprocessors.perform import Runtime

    if missing := next((folder for folder in args.weights if not folder.is_dir()), None):
        raise FileError(f"there is no folder {missing}: give one that holds weights as --weights")
    device = None if args.device == AUTO else str(find_device(args.device))
    return Runtime(store=Store(default_folder(), args.weights), pool=Pool(PlainManager(device)))
