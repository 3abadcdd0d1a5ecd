"""Picture, mask and preprocessor -> hint: drawn as uint8 pixels, then a tensor with -1 where the model is to invent.

Edges that fit a hint to the result themselves do it between the two. A pixel is to be invented where the mask is at
least half, on every edge (`preprocessors.pictures.inpaint.invented`).
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# torch and numpy declare some of their functions incompletely.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.control import ControlModel, HintSpace
from ..core.errors import UnitError, UnsupportedModelError
from ..core.resize import pixel_perfect
from ..preprocessors.pictures.inpaint import invented
from ..preprocessors.resize import MASK_ON, resize_mask
from .offer import preprocessor_of
from .request import NONE, UnitRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..preprocessors.perform import Runtime

    Image = NDArray[np.uint8]

Size = tuple[int, int]  # height and width in pixels


def check_reads_pictures(model: ControlModel) -> None:
    """Raise UnsupportedModelError for a model whose hint is an embedding, which no preprocessor here makes."""
    if model.hint_space is HintSpace.EMBEDDING:
        raise UnsupportedModelError(
            f"'{model.name}' is a style adapter and reads what CLIP sees in a picture, which no preprocessor here "
            "makes: choose a model that reads the picture itself, or use it in ComfyUI, whose CLIP Vision nodes make it"
        )


def resolution_of(request: UnitRequest, size: Size, target: Size | None) -> int | None:
    """Return the short side in pixels at which the preprocessor works on a picture; None is the picture's own.

    target: the size of the result. UnitError for a pixel perfect unit where nobody knows that size.
    """
    if not request.pixel_perfect:
        return request.resolution
    if target is None:
        raise UnitError("the unit is pixel perfect, which needs the size of the result: give it, or a resolution")
    return pixel_perfect(size, target, request.resize)


def draw_hint(
    request: UnitRequest,
    image: Image,
    *,
    inpaint_mask: Image | None = None,
    target: Size | None = None,
    runtime: Runtime | None = None,
    seed: int = 0,
) -> Image:
    """Return the hint of a picture [H, W, 3] or batch [B, H, W, 3], as uint8 of that rank.

    It has three channels, or a fourth that is 255 where the model is to invent. inpaint_mask: [h, w] or [B, h, w] of
    any size, white where something is to be invented; with the preprocessor `none` it marks the picture itself.
    target: the size of the result, for pixel perfect units. seed: of preprocessors that draw random numbers, where the
    unit has none. Raises HintError and PreprocessorError as preprocessors do.
    """
    preprocessor = preprocessor_of(request)
    if preprocessor.id == NONE and inpaint_mask is not None:
        return with_mask(image, inpaint_mask)
    parameters: dict[str, Any] = dict(request.parameters)
    height, width = image.shape[-3:-1]
    return preprocessor(
        image,
        mask=inpaint_mask,
        resolution=resolution_of(request, (height, width), target),
        seed=seed if request.seed is None else request.seed,
        runtime=runtime,
        **parameters,
    )


def with_mask(image: Image, mask: Image) -> Image:
    """Return pictures [..., H, W, 3] with a mask [h, w] or [B, h, w] of any size as their fourth channel."""
    import numpy as np

    scaled = np.stack([resize_mask(each, image.shape[-3:-1]) for each in (mask if mask.ndim == 3 else mask[None])])
    channel = np.broadcast_to(scaled if image.ndim == 4 else scaled[0], image.shape[:-1])
    return np.concatenate([image, channel[..., None]], axis=-1)


def visible(hint: Image) -> Image:
    """Return a hint as a picture to look at, uint8 [..., H, W, 3]: what is to be invented is half as bright."""
    import numpy as np

    if hint.shape[-1] == 3:
        return hint
    shown: Image = np.array(hint[..., :3])
    shown[hint[..., 3] >= MASK_ON] //= 2
    return shown


def beside_each_other(images: Image) -> Image:
    """Return a batch [B, H, W, 3] as one picture [H, B * W, 3]; one picture [H, W, 3] as it is."""
    import numpy as np

    return images if images.ndim == 3 else np.concatenate([*images], axis=1)


def hint_tensor(hint: Image) -> Tensor:
    """Return a hint, uint8 [H, W, 3 or 4] or a batch, as floats [N, 3, H, W] in 0..1; -1 is to be invented."""
    batch = hint if hint.ndim == 4 else hint[None]
    return torch.from_numpy(invented(batch)).permute(0, 3, 1, 2).contiguous()


def mask_tensor(mask: Image) -> Tensor:
    """Return an effect mask, uint8 [H, W] or [N, H, W], as floats [N, 1, H, W] in 0..1."""
    return torch.from_numpy(mask.copy()).float().reshape(-1, 1, *mask.shape[-2:]) / 255
