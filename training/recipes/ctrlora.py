"""CtrLoRA: a base ControlNet, and a small file that turns it towards one kind of hint (Xu et al., ICLR 2025).

As `cldm/cldm_ctrlora_pretrain.py` and `cldm/cldm_ctrlora_finetune.py` of xyfJASON/ctrlora train the two:

- `--start BASE` (their base, or one of ours): every linear layer gets factors, of which `up` starts at zero; they, the
  zero convolutions and the transformers' normalisations learn, and all else stays. The small file is written.
- `--start copy`: the base ControlNet itself learns as well, from a copy of the base model's encoder. Two files are
  written. The authors' base learned nine kinds of hints in turns, each with factors of its own; ours learns one kind.
- `--start SMALL` goes on from a small file, over its base ControlNet.

The hint goes through the base model's autoencoder in place of a hint encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import DamagedModelError, IncompatibleModelError, ScheduleError, UnsupportedModelError
from ...models.companions import PAIR, check_pair
from ...models.families.controlnet.config import ControlNetConfig
from ...models.families.controlnet.family import PREFIX
from ...models.families.ctrlora import DOWN, FAMILY, LORA, OWN, CtrLoraNet, base_of_small, may_be_new
from ...models.files.loading import Header, open_model, read_header
from ...models.files.precision import unscale
from ...models.files.sources import read_settings
from ...models.layers import TORCH_OPS, Kit, ResBlock, TransformerBlock
from ...pipelines.attached import WIDTHS_KEY
from ..choices import COPY
from ..settings import Settings
from .copies import copy_of_encoder, settings_of
from .recipe import Foundation, Recipe, fill_zero_convolutions

RANK = 128  # of the published files
PUBLISHED, LEAST = 320, 4  # width of their base's first level, of which a narrower one has a lower rank; lowest rank
STEM = "input_hint_block."  # of a plain ControlNet, and of none of these


class LowRank(nn.Linear):
    """A linear layer with factors beside its weight: W x + up down x (Hu et al. 2022)."""

    def __init__(self, inner: int, out: int, bias: bool = True, *, rank: int) -> None:
        super().__init__(inner, out, bias)
        down, up = nn.Linear(inner, rank, bias=False), nn.Linear(rank, out, bias=False)
        self.lora_layer = nn.ModuleDict({"down": down, "up": up})
        nn.init.normal_(down.weight, std=1 / rank)  # ctrlora, `cldm/lora.py`
        nn.init.zeros_(up.weight)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        return super().forward(input) + self.lora_layer["up"](self.lora_layer["down"](input))


class LowRankNet(CtrLoraNet):
    """The network in training. base_file: where its base ControlNet lies; None: that is trained, too."""

    def __init__(self, config: ControlNetConfig, rank: int) -> None:
        layers = TORCH_OPS._replace(Linear=partial(LowRank, rank=rank))
        super().__init__(config, Kit(layers, groups=config.groups))
        self.base_file: Path | None = None
        self.mark: str | None = None


class CtrLoraRecipe(Recipe):
    """Small files for SD 1.x, and base ControlNets of one kind of hint."""

    family, starts, options = FAMILY, (COPY,), frozenset({"rank"})
    blocks, needs_heads, empty_prompts = (ResBlock, TransformerBlock), True, 0.3

    def create(self, unet: Any, settings: Settings) -> LowRankNet:
        copy = copy_of_encoder(unet)
        network = _network(copy.config, unet, settings.rank)
        network.load_state_dict({k: v for k, v in copy.state_dict().items() if not k.startswith(STEM)}, strict=False)
        fill_zero_convolutions([*network.zero_convs.modules(), *network.middle_block_out.modules()], None)
        return network.to(torch.float32)

    def continued(self, path: Path, unet: Any, settings: Settings) -> LowRankNet:
        header = read_header(path)
        if FAMILY.detect(header.shapes):
            return self._of_small(path, header, unet, settings)
        network = self.create(unet, settings)
        _lay(network, path, header)
        return network

    def given(self, unet: Any, settings: Settings) -> dict[str, Any]:
        return dict(settings_of(unet))

    def frozen(self, network: nn.Module) -> Collection[str]:
        assert isinstance(network, LowRankNet)
        if network.base_file is None:
            return ()
        return [name for name in network.state_dict() if not _is_small(name)]

    def state(self, network: nn.Module) -> Mapping[str, Tensor]:
        return {PREFIX + name: each for name, each in network.state_dict().items() if _is_small(name)}

    def foundation(self, network: nn.Module) -> Foundation:
        assert isinstance(network, LowRankNet)
        if network.base_file is not None:
            return Foundation(network.base_file, network.mark)
        whole = {PREFIX + name: each for name, each in network.state_dict().items() if not _is_factor(name)}
        return Foundation(tensors=whole)

    def _of_small(self, path: Path, header: Header, unet: Any, settings: Settings) -> LowRankNet:
        """Return the network of a small file and its base ControlNet."""
        said = read_settings(FAMILY.settings, header, None, FAMILY.of_config)
        base = base_of_small(path, said.companion)
        if base is None:
            raise UnsupportedModelError(f"'{path.name}' is one of two files, and its base ControlNet is not beside it")
        if settings.rank is not None:
            raise ScheduleError("--rank is of new factors, and a small file has its own: leave it out")
        rank = next(shape[0] for name, shape in header.shapes.items() if name.endswith(DOWN))
        network = _network(copy_of_encoder(unet).config, unet, rank).to(torch.float32)
        foundation = read_header(base)
        check_pair(header, foundation)
        _lay(network, base, foundation)
        with open_model(path) as file:
            _put(network, FAMILY.rename(unscale(file.tensors(), path.name, None)), path, only_small=True)
        return network


def _network(config: ControlNetConfig, unet: Any, rank: int | None) -> LowRankNet:
    """Return a network for a base model. UnsupportedModelError for one of another kind than SD 1.x."""
    if config.label is not None or "heads" not in settings_of(unet):
        raise UnsupportedModelError("a CtrLoRA is for SD 1.x: give such a base model, or train another family")
    first, *_, widest = unet.config[WIDTHS_KEY]
    if rank is not None and rank > widest:
        raise ScheduleError(f"--rank is {rank}, expected no more than the {widest} channels of the base model")
    return LowRankNet(config, rank or max(LEAST, min(RANK, RANK * first // PUBLISHED)))


def _lay(network: LowRankNet, path: Path, header: Header) -> None:
    """Put the weights of a base ControlNet's file into a network."""
    bare = FAMILY.rename(header.shapes)
    if "zero_convs.0.0.weight" not in bare or any(name.startswith(STEM) for name in bare):
        raise UnsupportedModelError(
            f"'{path.name}' is neither a CtrLoRA nor the base ControlNet of one, such as ctrlora_sd15_basecn700k.ckpt: "
            "start from one, or give its --family"
        )
    with open_model(path) as file:
        _put(network, FAMILY.rename(unscale(file.tensors(), path.name, None)), path, only_small=False)
    network.base_file, network.mark = path, header.metadata.get(PAIR)


@torch.no_grad()
def _put(network: LowRankNet, state: Mapping[str, Tensor], path: Path, *, only_small: bool) -> None:
    """Copy a file's weights into a network. ModelError where some are missing, or of another base model's sizes."""
    for name, own in network.state_dict().items():
        wanted = _is_small(name) if only_small else not _is_factor(name)
        if not wanted:
            continue
        if name not in state:
            if only_small and not (_is_factor(name) or name.startswith(OWN)):
                continue  # normalisations that a small file leaves as its base has them
            raise DamagedModelError(f"'{path.name}' lacks '{name}': get the file again")
        if state[name].shape != own.shape:
            raise IncompatibleModelError(
                f"'{path.name}' was trained for another base model: '{name}' is {list(state[name].shape)}, expected "
                f"{list(own.shape)}: give the base model that it was trained for"
            )
        own.copy_(state[name])


def _is_factor(name: str) -> bool:
    return LORA in name.split(".")


def _is_small(name: str) -> bool:
    """Return whether a weight is one of the small file's: factors, zero convolutions and normalisations."""
    return _is_factor(name) or may_be_new(name)
