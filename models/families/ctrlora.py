"""CtrLoRA: one base ControlNet for all kinds of hints, and for each kind a small file that turns it towards that kind.

Xu et al., "CtrLoRA: An Extensible and Efficient Framework for Controllable Image Generation", ICLR 2025; names and
formulas of xyfJASON/ctrlora (`cldm/cldm_ctrlora_inference.py`). The small file holds low-rank factors for every linear
layer, and new normalisations and zero convolutions; it finds its base ControlNet beside it:

    W = W_base + up @ down        up [out, r], down [r, in]

The network is a ControlNet that has no hint encoder and does not see the noisy latents: in their place stand the
latents of the hint, h_0 = conv_in(VAE(hint)). The published trainings show pictures in 0..1 to the autoencoder, whose
own black is -1: black hints are grey to it. That is kept, since the weights have learned it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ...core.control import ControlModel, HintSpace, Prepared
from ...core.errors import DamagedModelError, IncompatibleModelError, UnsupportedModelError
from ...core.network.base import Base
from ..companions import check_pair, companion_of
from ..family import Family, Shapes, shapes_of
from ..files.finding import PICKLES, SAFETENSORS
from ..files.loading import Header, open_model
from ..files.precision import unscale
from ..guard import shown
from ..layers import Kit
from ..settings import FileName, Settings, Whole, setting
from .controlnet.config import FIRST, MOST, ControlNetConfig, ControlNetSettings, base_of
from .controlnet.family import PREFIX
from .controlnet.model import ControlNetModel
from .controlnet.network import ControlNet

LORA = "lora_layer"  # the part of a name that marks factors
UP, DOWN, WEIGHT = f".{LORA}.up.weight", f".{LORA}.down.weight", ".weight"
OWN = ("zero_convs.", "middle_block_out.")  # always whole in the small file
NORMS = frozenset({"norm", "norm1", "norm2", "norm3"})  # parts of the names of normalisations that may be new
LATENTS = 4  # channels
GREY = 0.5

T = TypeVar("T")


class CtrLoraNet(ControlNet):
    """A ControlNet that reads latents of the hint in place of noisy ones. waiting: names of what its base holds.

    low_rank: the factors of a weight by its name.
    """

    def __init__(self, config: ControlNetConfig, kit: Kit) -> None:
        super().__init__(config, kit.ops, kit.attention)
        del self.input_hint_block
        self.low_rank: Mapping[str, tuple[Tensor, Tensor]] = {}
        self.waiting: frozenset[str] = frozenset()

    def read(self, hint: Tensor) -> Tensor:
        """Return h_0 [N, channels, h, w] of latents of the hint [N, 4, h, w]."""
        return cast(nn.ModuleList, self.input_blocks[0])[0](hint)

    def first(self, x: Tensor, hint: Prepared) -> Tensor:
        return hint[0].expand(len(x), -1, -1, -1)


class CtrLoraModel(ControlNetModel):
    """A CtrLoRA as the stack sees it."""

    network: CtrLoraNet
    hint_space = HintSpace.LATENTS
    hole = 0.0  # the examples of its base paint it black
    black = GREY

    def prepare(self, hint: Tensor) -> Prepared:
        """Compute the features [N, channels, h, w] of latents of the hint [N, 4, h, w]."""
        return (self.network.read(hint.to(self.dtype)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class CtrLoraSettings(Settings):
    """What no shape tells."""

    heads: int | None = setting(Whole(1, MOST))  # of attention
    norm_groups: int | None = setting(Whole(1, MOST))
    companion: str | None = setting(FileName())  # the base ControlNet, in the same folder


class CtrLoraFamily(Family[CtrLoraNet, CtrLoraSettings]):
    """The small files; each finds its base ControlNet beside it."""

    id, title, settings = "ctrlora", "CtrLoRA", CtrLoraSettings
    bases, paper = "SD 1.x", "Xu et al., ICLR 2025"

    def detect(self, shapes: Shapes) -> bool:
        bare = self.rename(shapes)
        small = FIRST not in bare and "zero_convs.0.0.weight" in bare
        return small and any(name.endswith(UP) for name in bare)

    def rename(self, named: Mapping[str, T]) -> dict[str, T]:
        prefixed = {name[len(PREFIX) :]: each for name, each in named.items() if name.startswith(PREFIX)}
        return prefixed or dict(named)

    def unsaid(self) -> CtrLoraSettings:
        return CtrLoraSettings(heads=1, norm_groups=1)

    def base(self, shapes: Shapes) -> Base:
        return base_of(_whole(shapes))

    def create(self, shapes: Shapes, settings: CtrLoraSettings, kit: Kit) -> CtrLoraNet:
        given = ControlNetSettings(heads=settings.heads, norm_groups=settings.norm_groups)
        return CtrLoraNet(ControlNetConfig.from_shapes(_whole(shapes), given), kit)

    def in_file(self, network: CtrLoraNet, shapes: Shapes) -> Shapes:
        """Return the factors of each weight that has some, and what is whole."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes_of(network.state_dict()).items():
            stem = name.removesuffix(WEIGHT)
            if name.endswith(WEIGHT) and (stem + UP in shapes or stem + DOWN in shapes):
                rank = shapes.get(stem + DOWN, (1,))[0]
                found |= {stem + UP: (shape[0], rank), stem + DOWN: (rank, prod(shape[1:]))}
            elif name.startswith(OWN) or (name in shapes and may_be_new(name)):
                found[name] = shape
        return found

    def fill(self, network: CtrLoraNet, weights: Mapping[str, Tensor]) -> None:
        """Put in what the file holds; what its base holds is 0 until `join`."""
        stems = [name.removesuffix(UP) for name in weights if name.endswith(UP)]
        network.low_rank = {stem + WEIGHT: (weights[stem + UP], weights[stem + DOWN]) for stem in stems}
        state = {name: each for name, each in weights.items() if LORA not in name.split(".")}
        waiting = {name: shape for name, shape in shapes_of(network.state_dict()).items() if name not in state}
        network.waiting = frozenset(waiting)
        dtype = weights["zero_convs.0.0.weight"].dtype
        super().fill(network, state | {name: torch.zeros(shape, dtype=dtype) for name, shape in waiting.items()})

    def wrap(
        self, network: CtrLoraNet, name: str, settings: CtrLoraSettings, dtype: torch.dtype | None
    ) -> CtrLoraModel:
        model = CtrLoraModel(network, name=name, dtype=dtype)
        model.hint_channels = LATENTS
        return model

    def join(
        self,
        model: ControlModel,
        header: Header,
        settings: CtrLoraSettings,
        base_state: Mapping[str, Tensor] | None,
    ) -> ControlModel:
        """Return the model with the weights of its base ControlNet; UnsupportedModelError where that is not there."""
        path = header.weights
        companion = base_of_small(path, settings.companion)
        if companion is None:
            raise UnsupportedModelError(
                f"'{header.name}' is one of two files, and its base ControlNet is not beside it: put "
                "ctrlora_sd15_basecn700k.ckpt into the same folder, or name it in the setting 'companion'"
            )
        with open_model(companion) as file:
            check_pair(header, file.header)
            state = self.rename(unscale(file.tensors(), file.header.name, None))
        _merge(model.network, state, f"'{shown(header.name)}'", f"'{shown(companion.name)}'")
        return model


FAMILY = CtrLoraFamily()


def may_be_new(name: str) -> bool:
    """Return whether a weight that has no factors may be whole in a small file: zero convolutions, normalisations."""
    return name.startswith(OWN) or not NORMS.isdisjoint(name.split("."))


def base_of_small(path: Path, said: str | None) -> Path | None:
    """Return the base ControlNet of a small file; None where none is found. said: its name, from the settings."""
    return _named(path, said) if said else _beside(path)


def _whole(shapes: Shapes) -> Shapes:
    """Return shapes that tell the sizes of the ControlNet that a small file turns; the file tells them by its factors.

    Zero convolutions are as wide as the blocks; blocks with a layer of the time's embedding are residual, others halve.
    """
    whole = {name: shape for name, shape in shapes.items() if LORA not in name.split(".")}
    for name, up in shapes.items():
        if name.endswith(UP) and (down := shapes.get(name.removesuffix(UP) + DOWN)):
            whole[name.removesuffix(UP) + WEIGHT] = (up[0], down[1])
    widths = {int(name.split(".")[1]): shape[0] for name, shape in shapes.items() if _is_zero_convolution(name)}
    whole[FIRST] = (widths[0], LATENTS, 3, 3)
    for number, width in widths.items():
        block = f"input_blocks.{number}.0."
        if number:
            residual = f"{block}emb_layers.1.weight" in whole
            whole[block + ("in_layers.2.weight" if residual else "op.weight")] = (width,)
    whole["middle_block.2.in_layers.0.weight"] = ()  # by which the second residual block of the middle is told
    return whole


def _is_zero_convolution(name: str) -> bool:
    return name.startswith("zero_convs.") and name.endswith(".0.weight")


def _named(path: Path, said: str) -> Path | None:
    """Return the file of this name beside a small file, or above it: there lies that of a training's snapshots."""
    above = path.parent.with_name(said)
    return above if above.is_file() and not path.with_name(said).is_file() else companion_of(path, said)


def _beside(path: Path) -> Path | None:
    """Return the file of the same folder with whose name that of a small file begins: the longest such name.

    Published: ctrlora_sd15_basecn700k_lineart_rank128_1kimgs_1ksteps.ckpt, of ctrlora_sd15_basecn700k.ckpt.
    """
    found = (each for each in path.parent.iterdir() if each.suffix in (SAFETENSORS, *PICKLES) and each.is_file())
    fitting = [each for each in found if each.stem != path.stem and path.stem.startswith(each.stem)]
    return max(fitting, key=lambda each: len(each.stem), default=None)


@torch.no_grad()
def _merge(network: CtrLoraNet, base: Mapping[str, Tensor], small: str, name: str) -> None:
    """Put the weights of the base ControlNet into a network, with the products of the factors added.

    small, name: of the two files, for messages. ModelError where the base has other sizes, or is no such network.
    """
    own = dict(network.named_parameters())
    missing = [each for each in network.waiting if each not in base]
    if missing:
        raise DamagedModelError(
            f"{name} is not the base ControlNet of {small}: it lacks {len(missing)} weights, such as {min(missing)}; "
            "name the right file in the setting 'companion'"
        )
    for each in network.waiting:
        weight, parameter = base[each], own[each]
        if weight.shape != parameter.shape:
            raise IncompatibleModelError(
                f"{small} changes a ControlNet whose '{each}' is {list(parameter.shape)}, that of {name} is "
                f"{list(weight.shape)}: take the two files of one base ControlNet"
            )
        whole = weight.to(parameter.device, torch.float32)
        if each in network.low_rank:
            up, down = (factor.to(parameter.device, torch.float32) for factor in network.low_rank[each])
            whole = whole + up @ down
        parameter.copy_(whole)
    network.low_rank = {}  # merged, so no longer kept
