"""ControlNeXt: a small network of hint and time, whose answer enters the base network at one point, cross-normalised.

Peng et al., "ControlNeXt: Powerful and Efficient Control for Image and Video Generation", 2024; dvlab-research/
ControlNeXt. Some weights of the base model were trained with the network and lie in a second file, its companion. Three
networks of images are published, and each enters at its own place:

    SD 1.5, old     behind the middle block; the file's own factor     no `embedding`
    SD 1.5          past the skip of the first halving                 `embedding`, and a companion for SD 1.5
    SDXL            past the skip of the first convolution             `embedding`, and a companion for SDXL

The control c [N, C, h', w'] takes on mean and deviation of the stream x, over all but the rows (`models/unet.py`):

    code    (c - mean(c)) * std(x) / (std(c) + eps) + mean(x)
    paper   (c - mean(x)) / sqrt(var(x) + eps), equation 10 with its factor 1, which no file holds

No answer depends on the latents, so it is computed once for all rows and remembered for the pictures to come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.control import ControlModel, Prepared, Prompt
from ...core.errors import IncompatibleModelError, UnsupportedModelError
from ...core.network.base import SD1_CONTEXT, SDXL_CONTEXT, Base
from ...core.network.effects import Effect, Shift, WeightDelta
from ...core.network.points import MIDDLE, Point, onward
from ...core.network.rows import take_rows
from ...core.options import Option
from ...core.step import Step
from ..companions import companion_of, names_of, read_delta
from ..family import Description, Family, Shapes
from ..files.loading import Header
from ..files.sources import read_settings
from ..guard import shown
from ..layers import Kit, timestep_embedding
from ..remembered import Remembered, digests, words_of
from ..settings import FileName, Settings, Word, setting

EPS = 1e-12  # of the normalisation, `models/unet.py` of all three
RESNET_EPS = 1e-6  # diffusers' ResnetBlock2D
GROUPS = {False: (4, 8), True: (1, 8, 8)}  # of the residual blocks, by whether it is the old network
STEM_GROUPS, MIDDLE_GROUPS = 2, 8
CODE, PAPER = "code", "paper"
NORMALISATION = Option(
    name="normalisation",
    label="Normalisation",
    meaning="what the control takes on: mean and deviation of the stream (code), or equation 10 (paper)",
    default=CODE,
    words={CODE: (), PAPER: ()},
)
STANDARD_WIDTHS = (320, 1280)  # of the points in the published base models


class Place(Enum):
    """Where a network enters: its point, halvings of the latents there, and whether it is pooled after normalising."""

    MIDDLE = "sd15-old"
    HALVED = "sd15"
    FIRST = "sdxl"

    @property
    def point(self) -> Point:
        return {Place.MIDDLE: MIDDLE, Place.HALVED: onward(3), Place.FIRST: onward(0)}[self]

    @property
    def halvings(self) -> int:
        return {Place.MIDDLE: 3, Place.HALVED: 1, Place.FIRST: 0}[self]

    @property
    def pools_last(self) -> bool:
        return self is Place.FIRST

    @property
    def base(self) -> Base:
        return Base(context=SDXL_CONTEXT if self is Place.FIRST else SD1_CONTEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNeXtSettings(Settings):
    """What no shape tells; None: as the companion says."""

    base: str | None = setting(Word((Place.HALVED.value, Place.FIRST.value)))
    companion: str | None = setting(FileName())  # the file with weights of the base, in the same folder
    companion_holds: str | None = setting(Word(("weights", "increments")))


class TimedBlock(nn.Module):
    """Residual block of diffusers with a time embedding: [B, C, h, w] -> [B, C', h, w]."""

    def __init__(self, channels: int, out: int, emb: int, groups: int, kit: Kit) -> None:
        super().__init__()
        ops = kit.ops
        self.norm1 = ops.GroupNorm(groups, channels, eps=RESNET_EPS)
        self.conv1 = ops.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = ops.Linear(emb, out)
        self.norm2 = ops.GroupNorm(groups, out, eps=RESNET_EPS)
        self.conv2 = ops.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Identity() if channels == out else ops.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(emb))[..., None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class ControlNeXt(nn.Module):
    """hint [N, 3, 8h, 8w] and time [N] -> control [N, out, h, w]. All widths are read from shapes."""

    def __init__(self, shapes: Shapes, kit: Kit, padding: int = 1) -> None:
        """padding: of the convolutions that read the hint, but for the first one."""
        super().__init__()
        ops = kit.ops
        self.old = "embedding.0.weight" not in shapes
        emb, self.channels = shapes["time_embedding.linear_1.weight"]
        self.time_embedding = nn.ModuleDict({
            "linear_1": ops.Linear(self.channels, emb), "linear_2": ops.Linear(emb, emb),
        })  # fmt: skip
        if not self.old:
            self.embedding = _stem(shapes, kit, padding)
        groups = GROUPS[self.old]
        widths = [shapes[f"down_res.{i}.conv1.weight"][:2] for i in range(len(groups))]
        self.down_res = nn.ModuleList(
            TimedBlock(width, out, emb, count, kit) for (out, width), count in zip(widths, groups, strict=True)
        )
        self.down_sample = nn.ModuleList(
            nn.ModuleDict({"conv": ops.Conv2d(out, out, 3, stride=2, padding=1)}) for out, _ in widths
        )
        width, self.out = widths[-1][0], shapes["mid_convs.1.weight"][0]
        self.mid_convs = nn.ModuleList([_middle(width, self.old, kit), ops.Conv2d(width, self.out, 1)])
        if self.old:
            self.scale = nn.Parameter(torch.ones(()))

    def stem(self, hint: Tensor) -> Tensor:
        """Compute what does not depend on the time: hint [N, 3, H, W] -> [N, C, H / 2, W / 2]; of the old, nothing."""
        return hint if self.old else self.embedding(hint)

    def forward(self, h: Tensor, timestep: Tensor) -> Tensor:
        """Compute the control [N, out, h, w] of what `stem` returned and times [N]."""
        first, second = self.time_embedding["linear_1"], self.time_embedding["linear_2"]
        emb = second(F.silu(first(timestep_embedding(timestep, self.channels).to(h.dtype))))
        for block, halving in zip(self.down_res, self.down_sample, strict=True):
            h = cast(nn.ModuleDict, halving)["conv"](block(h, emb))
        middle = self.mid_convs[0](h)
        return self.mid_convs[1](middle if self.old else middle + h)


class ControlNeXtModel(ControlModel):
    """A ControlNeXt as the stack sees it.

    place: where it enters. delta: what its companion changes in the base. remembered: its answers of earlier runs.
    """

    network: ControlNeXt

    def __init__(
        self,
        network: ControlNeXt,
        *,
        name: str,
        place: Place | None,
        delta: WeightDelta | None = None,
        dtype: torch.dtype | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        self.network, self.name, self.delta = network, name, delta
        self.dtype = next(network.parameters()).dtype if dtype is None else dtype
        self.place = Place.HALVED if place is None else place
        self.base = self.place.base if place is not None and network.out in STANDARD_WIDTHS else Base()
        self.points, self.soft_weights = (self.place.point,), (1.0,)
        self.offers = (NORMALISATION,)
        self._remembered = Remembered() if remembered is None else remembered

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute what does not depend on the time, and what tells hints apart, which is kept with it."""
        return self.network.stem(hint.to(self.dtype)), self.digests(hint)

    def digests(self, hint: Tensor) -> Tensor:
        """Return what tells hints [N, ...] apart, [N, 16] bytes."""
        return digests(hint)

    def __call__(
        self, step: Step, prepared: Prepared, prompt: Prompt, points: Collection[Point]
    ) -> Iterator[tuple[Point, Effect]]:
        """Yield what is added to the stream at the place."""
        if self.place.point not in points:
            return
        scale = 1 << self.place.halvings
        height, width = (-(-side // scale) for side in step.x.shape[-2:])
        control = self.controls(step, prepared, (height, width))
        yield self.place.point, Shift(lambda h: self._entering(h, control))

    def _entering(self, h: Tensor, control: Tensor) -> Tensor:
        """Return what is added to a stream h [B, C, h, w]; control [1 or B, C, ...]."""
        if control.shape[1] != h.shape[1]:
            raise IncompatibleModelError(
                f"'{self.name}' adds {control.shape[1]} channels where the base model has {h.shape[1]}: load it with "
                "the base that it was trained with"
            )
        wide = control.float()
        wide = pooled(wide, (h.shape[-2], h.shape[-1]))  # another extension may change sizes inside the U-Net
        variance, mean = torch.var_mean(h.float(), dim=(1, 2, 3), keepdim=True)
        if self.options.get(NORMALISATION.name, CODE) == PAPER:
            entering = (wide - mean) / (variance + EPS).sqrt()
        else:
            entering = wide * variance.sqrt() + mean
        return (entering * self.network.scale.to(h.device) if self.network.old else entering).to(h.dtype)

    def controls(self, step: Step, prepared: Prepared, size: tuple[int, int]) -> Tensor:
        """Return the controls [1 or B, C, *size] of the hints at the rows' times; what is remembered is not computed.

        Reading the times waits for the device once.
        """
        features, hints = prepared[0], words_of(prepared[1])
        times = cast("list[float]", step.timestep.tolist())  # pyright: ignore[reportUnknownMemberType]
        count = 1 if len(hints) == 1 and len(set(times)) == 1 else len(times)
        rest = (size, self.options.get(NORMALISATION.name, CODE), features.dtype)
        keys = [(hints[row % len(hints)], (times[row], *rest)) for row in range(count)]
        known = {key: self._remembered.find(*key) for key in keys}
        new = [key for key, answer in known.items() if answer is None]
        if new:
            rows = tuple(map(keys.index, new))
            stem = features if len(features) == 1 else take_rows(features, rows)
            timestep = take_rows(step.timestep, rows).to(features.device)
            made = self.made(stem.expand(len(rows), *stem.shape[1:]), timestep, size)
            for key, answer in zip(new, made.chunk(len(new)), strict=True):
                known[key] = answer
                self._remembered.put(*key, answer)
        return torch.cat([cast(Tensor, known[key]).to(features.device) for key in keys])

    def made(self, features: Tensor, timestep: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute controls [N, C, *size], in the code's normalisation as far as they do not depend on the stream."""
        control = self.network(features, timestep).float()
        as_code = self.options.get(NORMALISATION.name, CODE) == CODE
        if as_code and self.place.pools_last:
            control = _standardised(control)
        control = pooled(control, size)
        if as_code and not self.place.pools_last:
            control = _standardised(control)
        return control.to(features.dtype)


def pooled(control: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a control [N, C, ...] averaged to a size; as it is where it has that."""
    return control if control.shape[-2:] == size else F.adaptive_avg_pool2d(control, size)


def _standardised(control: Tensor) -> Tensor:
    """Return (c - mean) / (std + eps) over all but the rows; 0 where c is flat but for its rounding."""
    deviation, mean = torch.std_mean(control, dim=(1, 2, 3), keepdim=True)
    rounding = control.abs().amax((1, 2, 3), keepdim=True) * torch.finfo(control.dtype).eps * 8
    return torch.where(deviation > rounding, (control - mean) / (deviation + EPS), 0.0)


def _stem(shapes: Shapes, kit: Kit, padding: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in (0, 3, 6):
        out, width = shapes[f"embedding.{i}.weight"][:2]
        conv = kit.ops.Conv2d(width, out, 3, stride=1 if i else 2, padding=padding if i else 1)
        layers += [conv, kit.ops.GroupNorm(STEM_GROUPS, out), nn.ReLU()]
    return nn.Sequential(*layers)


def _middle(width: int, old: bool, kit: Kit) -> nn.Sequential:
    ops = kit.ops
    norms = () if old else (ops.GroupNorm(MIDDLE_GROUPS, width), ops.GroupNorm(MIDDLE_GROUPS, width))
    first, second = (ops.Conv2d(width, width, 3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), *norms[:1], second, *norms[1:])


class ControlNeXtFamily(Family[ControlNeXt, ControlNeXtSettings]):
    """The three networks of images, and their companions. That of Stable Video Diffusion is told by its companion."""

    id, title, settings = "controlnext", "ControlNeXt", ControlNeXtSettings
    bases, paper = "SD 1.x, SDXL", "Peng et al., 2024"
    options = (NORMALISATION,)

    def detect(self, shapes: Shapes) -> bool:
        return all(
            name in shapes for name in ("mid_convs.1.weight", "down_res.0.conv1.weight", "down_res.1.conv1.weight")
        )

    def layout(self, names: Collection[str]) -> str:
        return "original" if "embedding.0.weight" in names else "original, old"

    def base(self, shapes: Shapes) -> Base:
        old = "embedding.0.weight" not in shapes
        return Place.MIDDLE.base if old and shapes["mid_convs.1.weight"][0] in STANDARD_WIDTHS else Base()

    def create(self, shapes: Shapes, settings: ControlNeXtSettings, kit: Kit) -> ControlNeXt:
        return ControlNeXt(shapes, kit)

    def wrap(
        self, network: ControlNeXt, name: str, settings: ControlNeXtSettings, dtype: torch.dtype | None
    ) -> ControlNeXtModel:
        place = Place.MIDDLE if network.old else None if settings.base is None else Place(settings.base)
        return ControlNeXtModel(network, name=name, place=place, dtype=dtype)

    def reads_base(self, names: Collection[str]) -> bool:
        return True

    def join(
        self,
        model: ControlModel,
        header: Header,
        settings: ControlNeXtSettings,
        base_state: Mapping[str, Tensor] | None,
    ) -> ControlModel:
        """Return the model with what its companion changes, at the place that the companion tells.

        The old network also works without one; a new one does not.
        """
        found = cast(ControlNeXtModel, model)
        network = found.network
        companion = companion_of(header.weights, settings.companion)
        if companion is None and not network.old:
            raise UnsupportedModelError(
                f"'{header.name}' is one of two files, and its companion with weights of the base model is not beside "
                f"it: put that into the same folder and name it '{shown(header.weights.stem)}_unet', or name it in the "
                "setting 'companion'"
            )
        if companion is None:
            return model
        place = Place.MIDDLE if network.old else _told(settings, companion, header.name)
        delta = read_delta(companion, header, settings.companion_holds, base_state)
        return ControlNeXtModel(
            network, name=model.name, place=place, delta=delta, dtype=cast(ControlNeXtModel, model).dtype
        )

    def describe(self, header: Header, given: Mapping[str, object] | None = None) -> Description:
        """Describe a file; its companion, where it lies beside it, tells the base model."""
        told = super().describe(header, given)
        settings = read_settings(self.settings, header, given)
        companion = companion_of(header.weights, settings.companion)
        if "embedding.0.weight" not in header.shapes:
            return told
        if companion is None and settings.base is None:
            return replace(told, base="SD 1.x or SDXL, as its companion tells, which is not beside it")
        return replace(told, base=_told(settings, companion, header.name).base.name)


FAMILY = ControlNeXtFamily()


def _told(settings: ControlNeXtSettings, companion: Path | None, name: str) -> Place:
    """Return the place of a new network: as the settings say, or as the weights in its companion tell.

    The first level of SD 1.5 has attention, that of SDXL has none; networks of videos attend to time as well.
    """
    names = frozenset[str]() if companion is None else names_of(companion)
    parts = {part for each in names for part in each.split(".")}
    if parts & {"temporal_transformer_blocks", "temporal_res_block", "time_stack", "time_mixer"}:
        raise UnsupportedModelError(
            f"'{name}' is a ControlNeXt for Stable Video Diffusion, as its companion shows, which is not supported: "
            "use its own nodes"
        )
    if settings.base is not None:
        return Place(settings.base)
    return Place.HALVED if any(each.startswith("input_blocks.1.1.") for each in names) else Place.FIRST
