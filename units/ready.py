"""A request whose pictures are files or pixels -> a unit that can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.control import ControlModel
from ..core.errors import UnitError
from ..core.unit import ControlUnit
from ..preprocessors.images import read_image, read_mask
from .convention import chosen, warning
from .hint import Size, draw_hint, fitting, hint_tensor, mask_tensor, to_show
from .make import make
from .offer import preprocessor_of
from .options import bound
from .request import UnitRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..preprocessors.perform import Runtime
    from .request import Picture

    Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A unit that can run, with what people want to see beside the result: its picture and its hint, uint8."""

    unit: ControlUnit
    request: UnitRequest  # with the preprocessor that was chosen, where the file of the model chose it
    image: Image
    hint: Image  # [..., H, W, 3], or a fourth channel that is 255 where something is to be invented; see `to_show`
    warning: str = ""  # where something looks wrong, or changes nothing


def ready(
    request: UnitRequest,
    model: ControlModel,
    target: Size | None,
    *,
    says: str = "",
    seed: int = 0,
    runtime: Runtime | None = None,
) -> Ready:
    """Read a unit's pictures, draw its hint, and make the unit, whose `origin` is the request as it was carried out.

    target: height and width of the result, for pixel perfect units; None where nobody knows it. says: what the model's
    file says about its hints. seed: of preprocessors that draw random numbers, where the unit has none.
    """
    if request.image is None:
        raise UnitError(f"the unit with '{request.model}' has no image: give it one")
    image, model = _read(request.image, read_image), bound(request, model)  # what it reads depends on what it is told
    request = fitting(chosen(request, says, model.embedding), model)
    inpaint = None if request.inpaint_mask is None else _read(request.inpaint_mask, read_mask)
    hint = draw_hint(request, image, inpaint_mask=inpaint, target=target, runtime=runtime, seed=seed)
    mask = None if request.effect_mask is None else mask_tensor(_read(request.effect_mask, read_mask))
    unit = replace(make(request, hint_tensor(hint), model, mask), origin=request)
    shown = to_show(hint, image, preprocessor_of(request)) if isinstance(hint, Tensor) else hint
    return Ready(unit, request, image, shown, warning(request, says, image, model.offers))


def _read(picture: Picture, read: Callable[[Path], Image]) -> Image:
    import numpy as np

    if not isinstance(picture, tuple):
        return read(picture) if isinstance(picture, Path) else picture
    images = [read(path) for path in picture]
    if other := next((k for k, each in enumerate(images) if each.shape != images[0].shape), None):
        first, size = (f"{image.shape[1]}x{image.shape[0]}" for image in (images[0], images[other]))
        raise UnitError(f"'{picture[other]}' is {size}, '{picture[0]}' of the same unit {first}: make them one size")
    return np.stack(images)
