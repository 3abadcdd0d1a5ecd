"""Files of IP-Adapters: plain, plus, plus-face and full-face, for SD 1.x and SDXL.

Those are `image_proj.*` and `ip_adapter.<n>.to_k_ip.weight`, `.to_v_ip.weight`. In .bin files tables of these names
lie inside each other, which comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from ....core.control import ControlModel
from ....core.embedding import Embedding, Encoder, Values
from ....core.errors import UnsupportedModelError
from ....core.network.base import SD1_CONTEXT, SDXL_CONTEXT
from ....core.network.points import Point
from ...family import Family, Shapes
from ...layers import Kit
from ...settings import Settings, Whole, setting
from .layers import points_of
from .model import OFFERS, IPAdapter, IPAdapterModel
from .projections import HEAD, FullFace, Plain, Resampler

T = TypeVar("T")

PROJECTION, LAYERS, OTHER_LAYERS = "image_proj.", "ip_adapter.", "adapter_modules."
PLAIN, PLUS, FULL = "image_proj.proj.weight", "image_proj.latents", "image_proj.proj.3.weight"
MOST = 4096  # heads, or channels of one
ENCODERS = {1024: Encoder.CLIP_H, 1280: Encoder.CLIP_G, 64: Encoder.COLOURS}  # by the width of their image embeddings
STATES = {1280: Encoder.CLIP_H}  # by the width of their hidden states
HEADS = {SD1_CONTEXT: (8, None), SDXL_CONTEXT: (None, 64)}  # of the base: their number, or channels of one


@dataclass(frozen=True, slots=True, kw_only=True)
class IPAdapterSettings(Settings):
    """What no shape tells: the heads of the base model's cross-attention; None is what is usual."""

    heads: int | None = setting(Whole(1, MOST))
    head_channels: int | None = setting(Whole(1, MOST))  # of one head, where their number differs by level


class IPAdapterFamily(Family[IPAdapter, IPAdapterSettings]):
    """The adapters that read CLIP; those of faces read another network, and have names of their own."""

    id, title, settings = "ip-adapter", "IP-Adapter", IPAdapterSettings
    bases, paper, options = "SD 1.x, SDXL", "Ye et al. 2023", OFFERS

    def detect(self, shapes: Shapes) -> bool:
        return any(name in shapes for name in (PLAIN, PLUS, FULL)) and bool(_widths(self.rename(shapes)))

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        return {
            LAYERS + name.removeprefix(OTHER_LAYERS) if name.startswith(OTHER_LAYERS) else name: each
            for name, each in named.items()
        }

    def unsaid(self) -> IPAdapterSettings:
        return IPAdapterSettings(head_channels=1)

    def create(self, shapes: Shapes, settings: IPAdapterSettings, kit: Kit) -> IPAdapter:
        widths, context = _widths(shapes), _context(shapes)
        _placed(widths, _heads(settings, context))  # which refuses what fits no base model
        return IPAdapter(_projection(shapes, context, kit), widths, context, kit)

    def wrap(
        self, network: IPAdapter, name: str, settings: IPAdapterSettings, dtype: torch.dtype | None
    ) -> ControlModel:
        shapes = {key: tuple(each.shape) for key, each in network.state_dict().items()}
        widths, context = _widths(shapes), _context(shapes)
        heads = _placed(widths, _heads(settings, context))
        embedding, width = _reads(shapes)
        return IPAdapterModel(
            network,
            name=name,
            context=context,
            heads=heads,
            embedding=embedding,
            width=width,
            dtype=dtype,
        )


FAMILY = IPAdapterFamily()


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
        if inner % HEAD or not inner:
            raise ValueError(f"its resampler's attention is {inner} wide, expected a multiple of {HEAD}")
        return Resampler(own["proj_in.weight"][1], width, inner, feed, context, count, depth, kit)
    if "proj.3.weight" in own:
        inner, width = own["proj.0.weight"]
        return FullFace(width, inner, context, kit)
    out, width = own["proj.weight"]
    if out % context:
        raise ValueError(f"it makes {out} numbers of a picture, expected tokens of width {context}")
    return Plain(width, context, out // context, kit)


def _reads(shapes: Shapes) -> tuple[Embedding, int]:
    """Return what the adapter reads, and how wide that is."""
    if PLAIN in shapes:
        width = shapes[PLAIN][1]
        return Embedding(ENCODERS.get(width), Values.IMAGE), width
    width = shapes["image_proj.proj_in.weight" if PLUS in shapes else "image_proj.proj.0.weight"][1]
    return Embedding(STATES.get(width), Values.STATES), width


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
