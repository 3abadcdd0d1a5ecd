"""The command `controlstack`: the one front door of the standalone edge and of training, which do not know each other.

Errors of ours are one line and exit code 2; an interrupt is exit code 130.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .core.unit import ControlUnit
    from .standalone.pipeline import Base
    from .training.evaluate import Condition

    Image = NDArray[np.uint8]
    Rows = Sequence[Sequence[tuple[str, Image]]]

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    from .core.errors import ControlError

    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except ControlError as error:
        print(f"controlstack: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("controlstack: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    from .standalone import commands as standalone
    from .training import commands as training

    parser = argparse.ArgumentParser(prog="controlstack", description="Stacked control units for Stable Diffusion.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    standalone.add_parsers(commands)
    training.add_parsers(commands)
    _add_evaluate(commands.add_parser("evaluate", help="measure how well pictures obey their hints"))
    return parser


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tiny", type=Path, metavar="FOLDER", nargs="?", help="tiny world, default: the shipped one")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page of numbers and pictures here")
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    """The scenes and scores are training's, the pictures the standalone edge's: only here do they meet."""
    from .core.errors import ModelError
    from .models.registry import load_control_model
    from .preprocessors.images import check_folder, make_folder
    from .standalone.demo import TINY
    from .standalone.pipeline import load_base
    from .training.evaluate import CEILING, conditions, evaluate, make_trial, score, sheet_rows, table

    for path in filter(None, (args.json, args.page)):
        check_folder(path.parent)
    folder = args.tiny or TINY
    trial = make_trial(args.scenes)
    base = load_base(folder / "base")
    controls = {file.stem: load_control_model(file) for file in sorted((folder / "controls").glob("*.safetensors"))}
    if missing := [name for name in ("canny", "color") if name not in controls]:
        raise ModelError(f"'{folder / 'controls'}' lacks {missing[0]}.safetensors: train it as docs/training.md shows")
    scores, sheets = {}, {}
    for condition in conditions(trial):
        found, images = evaluate(trial, controls, partial(_draw, base, condition))
        scores[condition.name] = {CEILING: score(trial, base.autoencode(trial.images)), **found}
        sheets[condition.name] = sheet_rows(trial, images)
        print(f"\n{condition.name}, guidance {condition.guidance}\n\n{table(scores[condition.name])}")
    for path in filter(None, (args.json, args.page)):
        make_folder(path.parent)
    if args.json:
        args.json.write_text(json.dumps(scores, indent=2), encoding="utf-8")
    if args.page:
        _write_page(args.page, {name: table(found) for name, found in scores.items()}, sheets)
    return 0


def _draw(base: Base, condition: Condition, units: Sequence[ControlUnit]) -> Image:
    from .standalone.demo import SIDE, STEPS
    from .standalone.pipeline import Request, generate

    request = Request(
        prompt=condition.prompts,
        steps=STEPS,
        guidance=condition.guidance,
        width=SIDE,
        height=SIDE,
        batch=len(condition.prompts),
        scheduler="ddim",
    )
    return generate(base, request, units).images


def _write_page(page: Path, tables: Mapping[str, str], sheets: Mapping[str, Rows]) -> None:
    """Numbers and pictures into the part of the page that is marked as made; what people wrote stays."""
    from .preprocessors.images import write_image
    from .standalone.sheets import sheet
    from .training.page import replace_made

    parts: list[str] = []
    for name, rows in sheets.items():
        picture = page.parent / "images" / f"{page.stem}-{name.replace(' ', '-')}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_image(picture, sheet(rows, side=96))
        parts += [f"### {name.capitalize()}", tables[name], f"![{name}](images/{picture.name})"]
    replace_made(page, "\n\n".join(parts))
    print(f"wrote {page}")


if __name__ == "__main__":
    sys.exit(main())
