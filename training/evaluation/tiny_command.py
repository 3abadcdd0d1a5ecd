"""The command `evaluate` on the tiny world: pictures under its controls, and how well they obey them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.wording import print_line
from ...pipelines.tiny_world import SIDE, STEPS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...core.unit import ControlUnit
    from ...pipelines.bases import Base
    from .evaluate import Condition

    Image = NDArray[np.uint8]
    Rows = Sequence[Sequence[tuple[str, Image]]]

SHOWN = 96  # pixels of a picture's side on the page


def evaluate_tiny(args: argparse.Namespace) -> int:
    """Draw, measure, and write what was asked for; returns the exit code."""
    from ...core.errors import ModelError
    from ...models.registry import load_control_model
    from ...pipelines.bases import load_base
    from ...preprocessors.images import check_folder, make_folder
    from .evaluate import CEILING, conditions, evaluate, make_trial, score, sheet_rows, table
    from .members import load_members, member_cases

    for path in filter(None, (args.json, args.page)):
        check_folder(path.parent)
    if not (args.tiny / "base").is_dir():
        raise ModelError(f"'{args.tiny}' holds no folder 'base': give a tiny world as --tiny, or leave --tiny out")
    trial = make_trial(args.scenes)
    base = load_base(args.tiny / "base")
    folder = args.tiny / "controls"
    controls = {file.stem: load_control_model(file) for file in sorted(folder.glob("*.safetensors"))}
    if missing := [name for name in ("canny", "color") if name not in controls]:
        raise ModelError(f"'{folder}' lacks {missing[0]}.safetensors: train it as docs/training.md shows")
    members = member_cases(trial, load_members(args.tiny / "members"), controls["canny"])
    scores, sheets = {}, {}
    for condition in conditions(trial):
        found, images = evaluate(trial, controls, partial(_draw, base, condition), members)
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
    """Draw a picture for each prompt: [N, H, W, 3]."""
    from ...pipelines.drawing import generate
    from ...pipelines.request import Request

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
    """Write numbers and pictures into the part of the page that is marked as made; what people wrote stays."""
    from ...pipelines.sheets import sheet
    from ...preprocessors.images import write_image
    from .page import replace_made

    parts: list[str] = []
    for name, rows in sheets.items():
        picture = page.parent / "images" / f"{page.stem}-{name.replace(' ', '-')}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_image(picture, sheet(rows, side=SHOWN))
        parts += [f"### {name.capitalize()}", tables[name], f"![{name}](images/{picture.name})"]
    replace_made(page, "\n\n".join(parts))
    print_line(f"wrote {page}")
