"""A unit's request, its files and its model -> the unit, for the command line, Python, and pictures drawn again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.control import ControlModel
from ..core.errors import HintError
from ..core.unit import ControlUnit
from ..preprocessors.images import read_image, read_mask
from ..units.convention import chosen, doubt, said_by
from ..units.hint import draw_hint, hint_tensor, mask_tensor
from ..units.make import make
from ..units.request import UnitRequest

if TYPE_CHECKING:
    from ..preprocessors.perform import Runtime

Image = NDArray[np.uint8]

log = logging.getLogger("controlstack")


def load_unit(
    request: UnitRequest,
    model: ControlModel,
    size: tuple[int, int] | None = None,
    *,
    runtime: Runtime | None = None,
    seed: int = 0,
) -> ControlUnit:
    """Return the unit of a request, its pictures read and its hint drawn; its `origin` is the request, carried out.

    size: (height, width) of the result, for pixel perfect units. seed: of preprocessors that draw random numbers, where
    the unit has none. Raises ControlError for whatever cannot work; a doubtful hint is a warning in the log.
    """
    if request.image is None:
        raise HintError(f"the unit with '{request.model}' has no picture: give it one")
    said = said_by(Path(model.source)) if model.source else ""
    request = chosen(request, said)
    image = _pixels(request.image, read_image)
    if words := doubt(request, said, image):
        log.warning("%s", words)
    inpaint = None if request.inpaint_mask is None else _pixels(request.inpaint_mask, read_mask)
    hint = draw_hint(request, image, inpaint_mask=inpaint, target=size, runtime=runtime, seed=seed)
    mask = None if request.effect_mask is None else mask_tensor(_pixels(request.effect_mask, read_mask))
    return replace(make(request, hint_tensor(hint), model, mask), origin=request)


def _pixels(given: Any, read: Any) -> Image:
    return read(given) if isinstance(given, Path) else given
