"""Pictures drawn by a model of the user's, one for each example; those that are there already are not drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ....core.unit import ControlUnit
from ....models.registry import load_control_model
from ....pipelines.bases import UnetState, load_base
from ....pipelines.drawing import generate
from ....pipelines.request import Request
from ....preprocessors.images import make_folder, write_image
from ...data.example import Example
from ...data.hints import Reader
from .items import Bar, Image, stem_of
from .options import Asked


def draw(
    asked: Asked, examples: Sequence[Example], reader: Reader, folder: Path, bar: Bar, interrupted: Callable[[], bool]
) -> bool:
    """Draw into a folder what is missing there; return whether it came to the end."""
    assert asked.base is not None
    base = load_base(asked.base, device=asked.device)
    state = UnetState(lambda: base)
    model = None if asked.control is None else load_control_model(asked.control, base_state=state)
    make_folder(folder)
    numbered = list(enumerate(examples))
    for index, example in bar(numbered, "pictures drawn"):
        path = folder / f"{stem_of(example, index)}.png"
        if not path.is_file():
            picture, hint = reader(example)
            units = [] if model is None else [ControlUnit(model=model, hint=_tensor(hint), weight=asked.weight)]
            request = Request(
                prompt=example.prompt,
                steps=asked.steps,
                guidance=asked.guidance,
                scheduler=asked.scheduler,
                seed=asked.seed + index,
                width=picture.shape[1],
                height=picture.shape[0],
            )
            write_image(path, generate(base, request, units).images[0])
        if interrupted():
            return False
    return True


def _tensor(picture: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
