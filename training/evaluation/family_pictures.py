"""A picture for the page of each family in docs/families/: scenes of the tiny world that only a unit tells of.

    python -m controlstack.training.evaluation.family_pictures [PAGE ...] [--models FOLDER] [--out FOLDER]

What a row shows is drawn without a prompt and without guidance: a scene that no training has seen, what the unit reads
of it, the picture without the unit, and the picture with it. Most models come with the tiny world; a Control-LoRA is
made of its canny ControlNet, and a reference has no file. Of other families there are pictures where FOLDER holds a
file named after the page, trained as docs/training.md says.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.control import ControlModel
from ...core.unit import ControlUnit
from ...core.wording import print_line
from ...models.families.control_lora import FAMILY, MARK, OWN
from ...models.fileless.making import make_fileless
from ...models.files.loading import open_model
from ...models.files.sources import read_settings
from ...models.kinds.unions import OPTION
from ...models.registry import load_control_model
from ...pipelines.bases import Base, UnetState, load_base
from ...pipelines.drawing import generate
from ...pipelines.request import Request
from ...pipelines.sheets import sheet
from ...pipelines.tiny_world import BASE, CONTROLS, MEMBERS, SIDE, STEPS
from ...preprocessors import find
from ...preprocessors.images import make_folder, write_image
from .evaluate import Trial, make_trial

Image = NDArray[np.uint8]

SCENES, SHOWN_SIDE = 2, 128
CANNY = CONTROLS / "canny.safetensors"
RANK = 16  # of the Control-LoRA
PICTURE = "picture"  # a hint that is the scene itself
COLOURS = "colours"  # a hint that no picture shows
PAGES = Path(__file__).resolve().parents[2] / "docs" / "images" / "families"


@dataclass(frozen=True, slots=True)
class Page:
    """What the picture of a page shows."""

    name: str  # of the page, and of the model's file where another one is not named
    hint: str  # a kind of hint of the trial, the scene itself, or its colours
    file: Path | None = None
    beside: bool = False  # drawn beside the canny ControlNet, since it says nothing of places
    options: Mapping[str, object] = field(default_factory=dict[str, object])


SHOWN = (
    Page("controlnet", "canny", CANNY),
    Page("union", "color", MEMBERS / "union.safetensors", options={OPTION: "tile"}),
    Page("ip-adapter", COLOURS, MEMBERS / "ip-adapter.safetensors", beside=True),
    Page("lllite", "color", MEMBERS / "lllite.safetensors"),
    Page("control-lora", "canny"),
    Page("reference", PICTURE, beside=True),
    Page("controlnet-lite", "color"),
    Page("controlnext", "color"),
    Page("uni-controlnet", "color", options={OPTION: "segmentation"}),
    Page("t2i-adapter", "color"),
    Page("controlnet-xs", "color"),
    Page("ctrlora", "color"),
)


def low_rank(control: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Return a ControlNet as a Control-LoRA: of each layer's difference to the base's, the best of that rank.

    control, base: weights by bare ldm names. By the singular values, W - W_base ~ up @ down.
    """
    state = {MARK: torch.zeros(1)}
    for name, weight in control.items():
        if weight.ndim < 2 or name.startswith(OWN):
            state[name] = weight.float()
            continue
        difference, stem = weight.float() - base[name].float(), name.removesuffix(".weight")
        left, values, right = torch.linalg.svd(difference.flatten(1), full_matrices=False)
        kept = min(rank, len(values))
        state[f"{stem}.up"] = left[:, :kept] * values[:kept]
        state[f"{stem}.down"] = right[:kept].reshape(kept, *difference.shape[1:])
    return state


def models(base: Base, folder: Path, names: Sequence[str]) -> Iterator[tuple[Page, ControlModel]]:
    """Yield the pages of these names of which there is a model, with it."""
    weights = UnetState(lambda: base)
    for page in (each for each in SHOWN if each.name in names):
        file = page.file if page.file is not None and page.file.is_file() else folder / f"{page.name}.safetensors"
        if page.name == "control-lora":
            with open_model(CANNY) as control:
                settings = read_settings(FAMILY.settings, control.header)
                state = low_rank(control.tensors(), weights, RANK)
            yield page, FAMILY.load(state, settings, name=page.name, dtype=torch.float32)
        elif page.name == "reference":
            yield page, make_fileless("reference_only", weights)
        elif file.is_file():
            yield page, load_control_model(file, base_state=weights, dtype=torch.float32).bind(page.options)


def rows(base: Base, trial: Trial, page: Page, model: ControlModel) -> list[list[tuple[str, Image]]]:
    """Return the rows of a page's picture, one for each scene."""
    canny = load_control_model(CANNY, dtype=torch.float32)
    others = [ControlUnit(model=canny, hint=_tensor(trial.hints["canny"]))] if page.beside else []
    shown = trial.images if page.hint in (PICTURE, COLOURS) else trial.hints[page.hint]
    if page.hint == COLOURS:
        hint = torch.from_numpy(np.stack([find(COLOURS)(image) for image in trial.images]))
    else:
        hint = _tensor(shown)
    without, drawn = (_draw(base, units) for units in (others, [*others, ControlUnit(model=model, hint=hint)]))
    columns = {
        "scene": trial.images,
        "what it reads": shown,
        "canny alone" if page.beside else "without": without,
        "canny and this" if page.beside else "with": drawn,
    }
    return [[(label, pictures[k]) for label, pictures in columns.items()] for k in range(trial.size)]


def _draw(base: Base, units: list[ControlUnit]) -> Image:
    settings: dict[str, Any] = {"steps": STEPS, "guidance": 1.0, "width": SIDE, "height": SIDE, "scheduler": "ddim"}
    return generate(base, Request(prompt=("",) * SCENES, batch=SCENES, **settings), units).images


def _tensor(images: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=[page.name for page in SHOWN])
    parser.add_argument("--models", type=Path, default=MEMBERS, help="a folder with models, named after the pages")
    parser.add_argument("--out", type=Path, default=PAGES)
    args = parser.parse_args()
    make_folder(args.out)
    base, trial = load_base(BASE), make_trial(SCENES)
    for page, model in models(base, args.models, args.pages):
        write_image(args.out / f"{page.name}.png", sheet(rows(base, trial, page, model), side=SHOWN_SIDE))
        print_line(f"wrote {args.out / page.name}.png")


if __name__ == "__main__":
    main()
