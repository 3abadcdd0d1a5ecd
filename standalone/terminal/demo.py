"""The command `demo`: the shipped tiny model under two controls at once, on one sheet, without any download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...core.wording import print_line
from ...pipelines.tiny_world import BASE, CELL, CONTROLS, IMAGES, SIDE, STEPS, TINY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...core.unit import ControlUnit
    from ...pipelines.bases import Base

    Image = NDArray[np.uint8]

GUIDANCE = 2.0
HINTS = {"canny": "preprocessor=canny", "color": f"preprocessor=color_grid,cell={CELL}"}
NAME = "controlstack-demo.png"


def run_demo(folder: Path, seed: int = 0) -> Path:
    """Draw the sheet into `folder`, print what is done, and return its path."""
    from ...pipelines.bases import load_base
    from ...pipelines.sheets import sheet
    from ...preprocessors.images import check_folder, make_folder, write_image

    check_folder(folder)
    print_line(f"Loading the tiny model from {TINY} ...")
    base = load_base(BASE)
    rows = [_row(base, image, seed + k) for k, image in enumerate(sorted(IMAGES.glob("*.png")))]
    path = folder / NAME
    make_folder(folder)
    write_image(path, sheet(rows))
    print_line(f"Wrote {path}: each row shows the input, the two hints, the picture without control,")
    print("under canny alone, under color alone, and under both. The prompt is empty: only the units speak.")
    return path


def _row(base: Base, image: Path, seed: int) -> list[tuple[str, Image]]:
    import torch

    from ...pipelines.drawing import generate
    from ...pipelines.request import Request
    from ..units import load_units, parse_unit

    texts = [parse_unit(f"image={image},model={CONTROLS / kind}.safetensors,{hint}") for kind, hint in HINTS.items()]
    canny, color = load_units(texts, (SIDE, SIDE), torch.float32)
    request = Request(steps=STEPS, guidance=GUIDANCE, seed=seed, width=SIDE, height=SIDE, scheduler="ddim")
    print(f"{image.name}, seed {seed}")
    stacks: dict[str, list[ControlUnit]] = {
        "no control": [],
        "canny": [canny.unit],
        "color": [color.unit],
        "both": [canny.unit, color.unit],
    }
    cells = [("input", canny.image), ("canny hint", canny.hint), ("color hint", color.hint)]
    for label, units in stacks.items():
        result = generate(base, request, units)
        fired = ", ".join(firing.on_steps for firing in result.firings)
        print(f"  {label}: units fire on {fired}" if fired else f"  {label}")
        cells.append((label, result.images[0]))
    return cells
