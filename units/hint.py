"""Picture, mask and preprocessor -> hint: drawn as uint8 pixels, then a tensor with -1 where the model is to invent.

What an image encoder sees is no picture and a tensor from the beginning, [N, T, D].

Edges that fit a hint to the result themselves do it between the two. A pixel is to be invented where the mask is at
least half, on every edge (`preprocessors.pictures.inpaint.invented`).
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# torch and numpy declare some of their functions incompletely.

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.control import ControlModel
from ..core.embedding import Embedding
from ..core.errors import PreprocessorError, UnitError
from ..core.resize import pixel_perfect
from ..preprocessors import Output, Preprocessor, encoding
from ..preprocessors.pictures.inpaint import invented
from ..preprocessors.resize import MASK_ON, resize_mask
from .offer import preprocessor_of
from .request import AUTO, NONE, UnitRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..preprocessors.perform import Runtime

    Image = NDArray[np.uint8]
    Hint = Image | Tensor  # pixels, or what an encoder saw

Size = tuple[int, int]  # height and width in pixels
CARD, BAND = 256, 16  # pixels: the long side of the picture that stands for an embedding, and of the line below it
PAPER, INK = (250, 250, 250), (40, 40, 40)


def fitting(request: UnitRequest, model: ControlModel) -> UnitRequest:
    """Return the request with the preprocessor of its encoder whose values the model reads.

    One encoder has several, and a person chooses the encoder. PreprocessorError, naming both sides, where the
    preprocessor gives a picture and the model reads an embedding, or the other way round, or another encoder's.
    """
    found, wanted = preprocessor_of(request), model.embedding
    if found.output is not Output.EMBEDDING and wanted is None:
        return request
    if wanted is None:
        raise PreprocessorError(
            f"'{model.name}' reads a picture, and the preprocessor {found.id} gives what an image encoder sees: choose "
            "a preprocessor that gives a picture, such as canny"
        )
    given = found.embedding
    if given is None or wanted.encoder not in (None, given.encoder):
        choose = "a preprocessor with an encoder" if wanted.encoder is None else f"{encoding(wanted).id}, or {AUTO}"
        gives = "does not say of which" if found.by_model else f"gives {given or 'a picture'}"
        raise PreprocessorError(
            f"'{model.name}' reads {wanted}, and the preprocessor {found.id} {gives}: choose {choose}"
        )
    return replace(request, preprocessor=encoding(Embedding(given.encoder, wanted.values)).id)


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
) -> Hint:
    """Return the hint of a picture [H, W, 3] or batch [B, H, W, 3].

    It is uint8 of that rank, or what an encoder saw, [N, T, D]. Pixels have three channels, or a fourth that is 255
    where the model is to invent. inpaint_mask: [h, w] or [B, h, w] of any size, white where something is to be
    invented; with the preprocessor `none` it marks the picture itself. target: the size of the result, for pixel
    perfect units. seed: of preprocessors that draw random numbers, where the unit has none. Raises HintError and
    PreprocessorError as preprocessors do.
    """
    preprocessor = preprocessor_of(request)
    if preprocessor.id == NONE and inpaint_mask is not None:
        return with_mask(image, inpaint_mask)
    parameters: dict[str, Any] = dict(request.parameters)
    height, width = image.shape[-3:-1]
    drawn = preprocessor(
        image,
        mask=inpaint_mask,
        resolution=resolution_of(request, (height, width), target),
        seed=seed if request.seed is None else request.seed,
        runtime=runtime,
        **parameters,
    )
    if preprocessor.output is not Output.EMBEDDING:
        return drawn
    return torch.from_numpy(drawn.reshape(-1, *drawn.shape[-2:]))


def with_mask(image: Image, mask: Image) -> Image:
    """Return pictures [..., H, W, 3] with a mask [h, w] or [B, h, w] of any size as their fourth channel."""
    import numpy as np

    scaled = np.stack([resize_mask(each, image.shape[-3:-1]) for each in (mask if mask.ndim == 3 else mask[None])])
    channel = np.broadcast_to(scaled if image.ndim == 4 else scaled[0], image.shape[:-1])
    return np.concatenate([image, channel[..., None]], axis=-1)


def to_show(hint: Hint, image: Image, preprocessor: Preprocessor) -> Image:
    """Return a hint as a picture to look at; of an embedding, what was looked at with the encoder's name below."""
    return cards(image, preprocessor.title) if isinstance(hint, Tensor) else visible(hint)


def cards(image: Image, title: str) -> Image:
    """Return small pictures of pictures [..., H, W, 3], each with a line of text below."""
    import numpy as np

    return np.stack([_card(each, title) for each in image]) if image.ndim == 4 else _card(image, title)


def _card(image: Image, title: str) -> Image:
    """Return a small picture [h, w, 3] with a line of text below it."""
    import numpy as np
    from PIL import Image as Pillow
    from PIL import ImageDraw

    height, width = image.shape[:2]
    scale = CARD / max(height, width)
    small = Pillow.fromarray(image).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    card = Pillow.new("RGB", (CARD, small.height + BAND), PAPER)
    card.paste(small, ((CARD - small.width) // 2, 0))
    ImageDraw.Draw(card).text((3, small.height + 2), title, fill=INK)
    return np.asarray(card)


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


def hint_tensor(hint: Hint) -> Tensor:
    """Return a hint, uint8 [H, W, 3 or 4] or a batch, as floats [N, 3, H, W] in 0..1; -1 is to be invented.

    What an encoder saw stays as it is.
    """
    if isinstance(hint, Tensor):
        return hint
    batch = hint if hint.ndim == 4 else hint[None]
    return torch.from_numpy(invented(batch)).permute(0, 3, 1, 2).contiguous()


def mask_tensor(mask: Image) -> Tensor:
    """Return an effect mask, uint8 [H, W] or [N, H, W], as floats [N, 1, H, W] in 0..1."""
    return torch.from_numpy(mask.copy()).float().reshape(-1, 1, *mask.shape[-2:]) / 255
