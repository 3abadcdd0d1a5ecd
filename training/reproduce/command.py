"""The command `reproduce`: what the papers say, tried on the tiny world."""

from __future__ import annotations

import argparse

from ...core.files import path_of
from ...core.wording import print_line

NAMES = ("prompts", "conditions", "guess", "transfer", "ablation", "sudden", "data-size", "controlnext")
SIZES = ("quick", "medium", "full")
DOES = "try on the tiny world what the papers say, and make a page of it; docs/papers.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add = parser.add_argument
    add(
        "--out",
        type=path_of,
        required=True,
        metavar="FOLDER",
        help="for trainings and results; a run goes on from here",
    )
    add("--only", action="append", default=[], choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}; repeat")
    add("--size", choices=SIZES, default="full", help="how long the trainings are (default: full)")
    add("--quick", dest="size", action="store_const", const="quick", help="the same as --size quick")
    add("--page", type=path_of, metavar="FILE", help="write the page, its numbers and pictures here")
    parser.set_defaults(run=_reproduce)


def _reproduce(args: argparse.Namespace) -> int:
    from ...preprocessors.images import check_folder
    from .run import reproduce, write_page
    from .sizes import BY_NAME
    from .world import World

    for folder in (args.out, *([args.page.parent] if args.page else [])):
        check_folder(folder)
    world = World(args.out, BY_NAME[args.size])
    reproduce(world, args.only, print_line)
    if args.page:
        write_page(world, args.page)
        print_line(f"wrote {args.page}")
    return 0
