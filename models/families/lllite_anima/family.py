"""The family of ControlLLLite for Anima: its files of version 2, and how the stack sees one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.control import ControlModel, Prepared, Prompt
from ....core.errors import DamagedModelError, HintError, IncompatibleModelError, UnsupportedModelError
from ....core.network.base import Base, Transformer
from ....core.network.effects import Effect, Shift
from ....core.network.points import Point
from ....core.step import Step
from ...family import Family, Shapes
from ...guard import shown
from ...layers import Kit
from ...settings import Settings, Truth, Wholes, setting
from .network import START, STRIDE, TRUNK, AnimaLLLite, Module, count_below, names_in, point_of

TOKEN = STRIDE**2  # pixels on a side
PICTURE, WITH_HOLE = 3, 4  # channels that the trunk reads
DILATIONS = (1, 2, 4, 8)  # of the trunk's branches, where the file does not say so
VERSION = "2"
OTHER_KINDS = {"cond_input_space": "latent", "trunk": "semantic"}  # of later versions, which read no pixels
ELSEWHERE = (
    "units act on Anima in Forge Neo, and in ComfyUI its own nodes 'Load Model Patch' and 'Apply Anima LLLite' put "
    "this file on it, which 'Control of a Model Patch' then weighs as a unit"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimaSettings(Settings):
    """What no shape tells."""

    dilations: str | None = setting(Wholes(1, 64))  # of the trunk's branches
    masked_input: bool | None = setting(Truth())  # a network for holes sees nothing of the picture in them


class AnimaLLLiteModel(ControlModel):
    """A ControlLLLite for Anima as the stack sees it."""

    def __init__(self, network: AnimaLLLite, *, name: str, dtype: torch.dtype | None = None) -> None:
        self.network, self.name = network, name
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        self._parts = network.parts
        self.points = tuple(point for point, _ in self._parts)
        self.soft_weights = (1.0,) * len(self.points)
        self.base = _base([(point, module.inner) for point, module in self._parts])

    def check_base(self, base: Base) -> None:
        """Raise IncompatibleModelError, naming both sides and where units act on an Anima, unless the base is one."""
        try:
            super().check_base(base)
        except IncompatibleModelError as error:
            if base.transformer is not None:
                raise
            raise IncompatibleModelError(f"{error} ({ELSEWHERE})") from None

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the vectors of the tokens of a hint [N, 3, H, W] in 0..1, -1 where something is to be invented."""
        shown = hint.clamp(min=0) * 2 - 1
        if self.network.widths.reads == WITH_HOLE:
            hole = (hint < 0).all(dim=1, keepdim=True).to(shown.dtype)
            shown = torch.cat([shown * (1 - hole), hole * 2 - 1], dim=1)
        return (self.network.lllite_conditioning1(_padded(shown.to(self.dtype))),)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield the shift before each wanted projection."""
        (embedding,) = prepared
        for point, module in self._parts:
            if point in points:
                yield point, Shift(partial(self._shift, module, embedding))

    def _shift(self, module: Module, embedding: Tensor, x: Tensor) -> Tensor:
        if x.shape[1] != embedding.shape[1]:
            raise HintError(
                f"'{self.name}' has {embedding.shape[1]} tokens of the hint for {x.shape[1]} of the picture: leave out "
                "what changes their number (reference pictures, films, merged tokens)"
            )
        return module(x.to(self.dtype), embedding).to(x.dtype)


class AnimaLLLiteFamily(Family[AnimaLLLite, AnimaSettings]):
    """ControlLLLite for Anima in kohya's names of version 2."""

    id, title, settings = "lllite-anima", "ControlLLLite (Anima)", AnimaSettings
    bases, paper, page = "Anima", "kohya-ss, ComfyUI-Anima-LLLite", "lllite"
    hosts = "Forge Neo"

    def detect(self, shapes: Shapes) -> bool:
        stem = shapes.get(f"{TRUNK}.conv1.weight", ())[1:]
        reads_pixels = stem in ((PICTURE, STRIDE, STRIDE), (WITH_HOLE, STRIDE, STRIDE))
        return reads_pixels and any(name.startswith(START) for name in shapes)

    def of_metadata(self, metadata: Mapping[str, str]) -> Mapping[str, object]:
        """Return kohya's words on a network. UnsupportedModelError for versions that are not read."""
        said = {key.removeprefix("lllite."): each for key, each in metadata.items() if key.startswith("lllite.")}
        kinds = [key for key, kind in OTHER_KINDS.items() if said.get(key) == kind]
        if kinds or said.get("version", VERSION) != VERSION:
            version = said.get("version", VERSION)
            other = f" whose {kinds[0]} is {OTHER_KINDS[kinds[0]]}" if kinds else ""
            raise UnsupportedModelError(
                f"it is a ControlLLLite for Anima of version {shown(version)}{other}, and version {VERSION} with a "
                "hint of pixels is read: get the model in that version, or use its own nodes in ComfyUI"
            )
        names = {"aspp_dilations": "dilations", "inpaint_masked_input": "masked_input"}
        return {names[key]: each for key, each in said.items() if key in names}

    def unsaid(self) -> AnimaSettings:
        return AnimaSettings(masked_input=True)

    def base(self, shapes: Shapes) -> Base:
        return _base([(point_of(name), shapes[f"{name}.down.weight"][1]) for name in names_in(shapes)])

    def create(self, shapes: Shapes, settings: AnimaSettings, kit: Kit) -> AnimaLLLite:
        network = AnimaLLLite(shapes, _dilations(shapes, settings), kit)
        if network.widths.reads == WITH_HOLE and not settings.masked_input:
            raise UnsupportedModelError(
                "it fills holes and reads the picture in them too, of which units know nothing: get one that was "
                "trained on pictures without their holes, or say by the setting 'masked_input' that it was"
            )
        return network

    def wrap(
        self, network: AnimaLLLite, name: str, settings: AnimaSettings, dtype: torch.dtype | None
    ) -> AnimaLLLiteModel:
        return AnimaLLLiteModel(network, name=name, dtype=dtype)


FAMILY = AnimaLLLiteFamily()


def _base(widths: Sequence[tuple[Point, int]]) -> Base:
    """Return the base model of modules with these inputs; DamagedModelError where they are not all as wide."""
    found = {width for _, width in widths}
    if len(found) != 1:
        raise DamagedModelError(
            f"its modules are for tokens {' and '.join(map(str, sorted(found))) or 'of no width'} wide, and those of a "
            "transformer are all as wide: get the file again"
        )
    return Base(transformer=Transformer(found.pop(), 1 + max(point.index for point, _ in widths)))


def _dilations(shapes: Shapes, settings: AnimaSettings) -> tuple[int, ...]:
    """Return how far the trunk's branches look; UnsupportedModelError where the file has another number of branches."""
    said, count = settings.dilations, count_below(f"{TRUNK}.aspp.branches", shapes)
    dilations = DILATIONS if said is None else tuple(map(int, said.split(",")))
    if count not in (0, len(dilations)):
        raise UnsupportedModelError(
            f"its trunk has {count} branches, and {len(dilations)} dilations are known: set the setting 'dilations'"
        )
    return dilations if count else ()


def _padded(hint: Tensor) -> Tensor:
    """Return a hint with its edges repeated up to whole tokens: a transformer fills the sides of its maps up."""
    down, right = (-side % TOKEN for side in hint.shape[-2:])
    return F.pad(hint, (0, right, 0, down), mode="replicate") if down or right else hint
