"""Files of IP-Adapters: plain, plus, full-face, FaceID and its kinds, and InstantID's, for SD 1.x and SDXL.

Those are `image_proj.*` and `ip_adapter.<n>.to_k_ip.weight`, `.to_v_ip.weight`. In .bin files tables of these names
lie inside each other, which comes to the same. FaceID's hold a LoRA for the base model too (`lora.py`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ....core.control import ControlModel
from ....core.embedding import Embedding, Encoder, Values
from ....core.errors import UnsupportedModelError
from ....core.network.base import SD1_CONTEXT, SDXL_CONTEXT
from ....core.network.points import Point
from ....core.options import Option
from ...family import Family, Shapes, shapes_of
from ...guard import shown
from ...layers import Kit
from ...settings import Settings, Truth, Whole, setting
from .layers import points_of
from .lora import delta_of, has_lora, lora_in_file
from .model import OFFERS, STRUCTURE, IPAdapter, IPAdapterModel
from .projections import HEAD, Asking, Face, FacePlus, FullFace, Plain, Resampler

T = TypeVar("T")

PROJECTION, LAYERS, OTHER_LAYERS = "image_proj.", "ip_adapter.", "adapter_modules."
PLAIN, PLUS, FULL = "image_proj.proj.weight", "image_proj.latents", "image_proj.proj.3.weight"
FACE, FACE_NORM = "image_proj.proj.0.weight", "image_proj.norm.weight"
ASKING = "image_proj.perceiver_resampler."  # before the names of a resampler that a face's tokens ask
FACE_NUMBERS = 512  # of a recognised face, which no CLIP gives
MOST = 4096  # heads, or channels of one
ENCODERS = {1024: Encoder.CLIP_H, 1280: Encoder.CLIP_G, 64: Encoder.COLOURS}  # by the width of their image embeddings
STATES = {1280: Encoder.CLIP_H}  # by the width of their hidden states
HEADS = {SD1_CONTEXT: (8, None), SDXL_CONTEXT: (None, 64)}  # of the base: their number, or channels of one


@dataclass(frozen=True, slots=True, kw_only=True)
class IPAdapterSettings(Settings):
    """What no shape tells: the heads of the base model's cross-attention; None is what is usual."""

    heads: int | None = setting(Whole(1, MOST))
    head_channels: int | None = setting(Whole(1, MOST))  # of one head, where their number differs by level
    normalised: bool | None = setting(Truth())  # FaceID: whether it reads faces at length 1, as is usual
    beside: bool | None = setting(Truth())  # FaceID plus: whether the face's own tokens stay, as in plusv2


class IPAdapterFamily(Family[IPAdapter, IPAdapterSettings]):
    """The adapters that read CLIP; those of faces follow below."""

    id, title, settings = "ip-adapter", "IP-Adapter", IPAdapterSettings
    bases, paper, options = "SD 1.x, SDXL", "Ye et al. 2023", OFFERS

    def detect(self, shapes: Shapes) -> bool:
        seen = PLAIN in shapes or FULL in shapes or (PLUS in shapes and not _is_instant_id(shapes))
        return seen and bool(_widths(self.rename(shapes)))

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        return {
            LAYERS + name.removeprefix(OTHER_LAYERS) if name.startswith(OTHER_LAYERS) else name: each
            for name, each in named.items()
        }

    def unsaid(self) -> IPAdapterSettings:
        return IPAdapterSettings(head_channels=1, beside=True)

    def create(self, shapes: Shapes, settings: IPAdapterSettings, kit: Kit) -> IPAdapter:
        widths, context = _widths(shapes), _context(shapes)
        _placed(widths, _heads(settings, context))  # which refuses what fits no base model
        return IPAdapter(_projection(shapes, context, kit), widths, context, kit)

    def in_file(self, network: IPAdapter, shapes: Shapes) -> Shapes:
        own = shapes_of(network.state_dict())
        return own | (lora_in_file(list(_widths(own)), {**shapes, **own}) if has_lora(shapes) else {})

    def fill(self, network: IPAdapter, weights: Mapping[str, Tensor]) -> None:
        own = network.state_dict()
        network.lora = {name: each for name, each in weights.items() if name not in own}
        super().fill(network, {name: weights[name] for name in own})

    def wrap(
        self, network: IPAdapter, name: str, settings: IPAdapterSettings, dtype: torch.dtype | None
    ) -> ControlModel:
        shapes = shapes_of(network.state_dict())
        widths, context = _widths(shapes), _context(shapes)
        heads = _placed(widths, _heads(settings, context))
        embedding, width = _reads(shapes, settings.normalised is not False)
        model = IPAdapterModel(
            network,
            name=name,
            context=context,
            heads=heads,
            embedding=embedding,
            width=width,
            beside=_beside(name, settings) if isinstance(network.image_proj, FacePlus) else None,
            dtype=dtype,
        )
        model.delta = delta_of(dict(zip(widths, heads, strict=True)), network.lora)
        return model


class FaceIDFamily(IPAdapterFamily):
    """The adapters that read a recognised face; plus and plusv2 what CLIP sees of it, too."""

    id, title, page = "face-id", "IP-Adapter FaceID", "face-id"
    paper, options = "tencent-ailab/IP-Adapter, 2023", (*OFFERS, STRUCTURE)

    def detect(self, shapes: Shapes) -> bool:
        face = FACE in shapes and FACE_NORM in shapes and FULL not in shapes
        return face and bool(_widths(self.rename(shapes)))

    def offers(self, shapes: Shapes, settings: IPAdapterSettings) -> tuple[Option, ...]:
        return self.options if ASKING + "proj_in.weight" in shapes else OFFERS


class InstantIDFamily(IPAdapterFamily):
    """The adapter of InstantID, whose tokens its ControlNet reads in place of the prompt."""

    id, title, page = "instant-id", "InstantID", "instant-id"
    bases, paper = "SDXL", "Wang et al. 2024"

    def detect(self, shapes: Shapes) -> bool:
        return PLUS in shapes and _is_instant_id(shapes) and bool(_widths(self.rename(shapes)))


FAMILY, FACE_ID_FAMILY, INSTANT_ID_FAMILY = IPAdapterFamily(), FaceIDFamily(), InstantIDFamily()


def _is_instant_id(shapes: Shapes) -> bool:
    """Return whether a resampler reads the numbers of a face."""
    return shapes.get("image_proj.proj_in.weight", ())[1:] == (FACE_NUMBERS,)


def _widths(shapes: Shapes) -> dict[str, int]:
    """Return the width of each layer by its number in the file, in order."""
    found = {
        name.split(".")[1]: shape[0]
        for name, shape in shapes.items()
        if name.startswith(LAYERS) and name.endswith(".to_k_ip.weight")
    }
    return {number: found[number] for number in sorted(found, key=int)}


def _context(shapes: Shapes) -> int:
    """Return the width of the tokens of the base model's prompt."""
    return next(shape[1] for name, shape in shapes.items() if name.endswith(".to_k_ip.weight"))


def _projection(shapes: Shapes, context: int, kit: Kit) -> nn.Module:
    own = {name[len(PROJECTION) :]: shape for name, shape in shapes.items() if name.startswith(PROJECTION)}
    if "latents" in own:
        _, count, width = own["latents"]
        inner, feed = own["layers.0.0.to_q.weight"][0], own["layers.0.1.1.weight"][0]
        depth = len({name.split(".")[1] for name in own if name.startswith("layers.")})
        _check_inner(inner)
        return Resampler(own["proj_in.weight"][1], width, inner, feed, context, count, depth, kit)
    if "proj.3.weight" in own:
        inner, width = own["proj.0.weight"]
        return FullFace(width, inner, context, kit)
    if "proj.0.weight" in own:
        return _face(own, context, kit)
    out, width = own["proj.weight"]
    return Plain(width, context, _tokens(out, context), kit)


def _face(own: Shapes, context: int, kit: Kit) -> nn.Module:
    """Return the projection of a face; own: shapes by the names below `image_proj`."""
    hidden, width = own["proj.0.weight"]
    count, start = _tokens(own["proj.2.weight"][0], context), ASKING[len(PROJECTION) :]
    if not any(name.startswith(start) for name in own):
        return Face(width, hidden, context, count, kit)
    inner, feed = own[start + "layers.0.0.to_q.weight"][0], own[start + "layers.0.1.1.weight"][0]
    depth = len({name.split(".")[2] for name in own if name.startswith(start + "layers.")})
    seen = own[start + "proj_in.weight"][1]
    _check_inner(inner)
    if width > seen:
        raise ValueError(
            f"its face has {width} numbers and its hidden states are {seen} wide, expected at least as many"
        )
    asking = Asking(seen, context, inner, feed, context, depth, kit)
    return FacePlus(width, hidden, context, count, asking, kit)


def _tokens(numbers: int, context: int) -> int:
    """Return how many tokens so many numbers are."""
    if numbers % context:
        raise ValueError(f"it makes {numbers} numbers of a picture, expected tokens of width {context}")
    return numbers // context


def _check_inner(inner: int) -> None:
    if inner % HEAD or not inner:
        raise ValueError(f"its resampler's attention is {inner} wide, expected a multiple of {HEAD}")


def _reads(shapes: Shapes, normalised: bool) -> tuple[Embedding, int]:
    """Return what the adapter reads, and how wide that is. normalised: faces, where it reads FaceID's."""
    if PLAIN in shapes:
        width = shapes[PLAIN][1]
        return Embedding(ENCODERS.get(width), Values.IMAGE), width
    if ASKING + "proj_in.weight" in shapes:
        return Embedding(Encoder.BUFFALO, Values.FACE_STATES), shapes[ASKING + "proj_in.weight"][1]
    width = shapes["image_proj.proj_in.weight" if PLUS in shapes else FACE][1]
    if _is_instant_id(shapes):
        return Embedding(Encoder.ANTELOPE, Values.RAW_FACE), width
    if PLUS in shapes or FULL in shapes:
        return Embedding(STATES.get(width), Values.STATES), width
    return Embedding(Encoder.BUFFALO, Values.FACE if normalised else Values.RAW_FACE), width


def _beside(name: str, settings: IPAdapterSettings) -> bool:
    """Return whether the face's own tokens stay, as in plusv2; the settings say it, or else the model's name does."""
    if settings.beside is not None:
        return settings.beside
    words = re.split(r"[^a-z0-9]+", name.lower())
    if "plus" not in words and "plusv2" not in words:
        logging.getLogger("controlstack").warning(
            "'%s' is taken for a FaceID plusv2, since its name says neither plus nor plusv2. The setting 'beside' in a "
            "JSON file beside it decides otherwise.",
            shown(name),
        )
    return "plus" not in words


def _heads(settings: IPAdapterSettings, context: int) -> tuple[int | None, int | None]:
    """Return (number of heads, channels of a head), one of them None."""
    if settings.heads is not None or settings.head_channels is not None:
        return settings.heads, None if settings.heads is not None else settings.head_channels
    if context not in HEADS:
        known = ", ".join(map(str, HEADS))
        raise UnsupportedModelError(
            f"the context width is {context}, expected one of {known}: for another base model give the setting 'heads' "
            "or 'head_channels' in the file's metadata or in a JSON file beside it"
        )
    return HEADS[context]


def _placed(widths: Mapping[str, int], heads: tuple[int | None, int | None]) -> dict[Point, int]:
    """Return where each layer acts and with how many heads, in the file's order."""
    points = points_of(list(widths.values()))
    return {point: _count(heads, width) for point, width in zip(points, widths.values(), strict=True)}


def _count(heads: tuple[int | None, int | None], width: int) -> int:
    """Return the number of heads of an attention of this width; ValueError where they do not divide it."""
    number, channels = heads
    count = number if number is not None else width // (channels or width)
    if not count or width % count:
        raise ValueError(f"an attention {width} wide has no {number or channels} heads of one width")
    return count
