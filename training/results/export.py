"""A trained network as a diffusers folder, for programs that load those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import UnsupportedModelError
from ...models.families.controlnet.network import ControlNet
from ...models.families.controlnet_xs import ControlNetXS
from ...models.families.t2i_adapter import STYLE_HEADS, Adapter
from ...models.families.union import UnionNet
from ...models.naming import to_diffusers
from ...pipelines.bases import DTYPES
from ...pipelines.quiet import quiet
from ..run import Run
from .files import replace_folder

SUFFIX = ".diffusers"
FAMILIES = ("controlnet", "controlnet-xs", "union", "t2i-adapter")  # that diffusers has a class for


def check_export(family: str) -> None:
    """Raise UnsupportedModelError for a family that diffusers has no class for."""
    if family not in FAMILIES:
        raise UnsupportedModelError(f"--diffusers: diffusers has no class for {family}: leave the option out")


def write_folder(run: Run, out: Path) -> Path:
    """Write the network as it is now as a diffusers folder beside the file, OUT.diffusers; return the folder."""
    folder = out.with_suffix(SUFFIX)
    with quiet():  # diffusers warns of a cast that changes nothing
        network = diffusers_network(run.network, run.control_state(), run.base.unet).to(DTYPES[run.settings.dtype])
    replace_folder(folder, network.save_pretrained)
    for path in folder.rglob("*"):
        path.chmod(out.stat().st_mode)  # the library's are private
    return folder


def diffusers_network(network: nn.Module, state: Mapping[str, Tensor], unet: Any) -> Any:
    """Return a network of diffusers' own class with the weights of ours."""
    with torch.random.fork_rng():  # whoever trains on draws the same numbers
        if isinstance(network, UnionNet):
            return _union(network, state, unet)
        if isinstance(network, ControlNet):
            return _controlnet(state, unet)
        if isinstance(network, ControlNetXS):
            return _xs(network, state, unet)
        assert isinstance(network, Adapter)
        return _adapter(network, state)


def _controlnet(state: Mapping[str, Tensor], unet: Any) -> Any:
    from diffusers import ControlNetModel

    made = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    made.float().load_state_dict(to_diffusers(state))
    return made


def _union(network: UnionNet, state: Mapping[str, Tensor], unet: Any) -> Any:
    from diffusers import ControlNetModel, ControlNetUnionModel

    kinds, width = network.task_embedding.shape
    made: Any = ControlNetUnionModel.from_config(
        {
            **ControlNetModel.from_unet(unet, load_weights_from_unet=False).config,
            "num_control_type": kinds,
            "num_trans_channel": width,
            "num_proj_channel": width,
            "num_trans_head": STYLE_HEADS,
            "num_trans_layer": len(network.transformer_layes),
            "addition_time_embed_dim": network.sinusoids,
        }
    )
    named = to_diffusers(state)
    made.float().load_state_dict({name.replace(".attn.in_proj.", ".attn.in_proj_"): named[name] for name in named})
    return made


def _xs(network: ControlNetXS, state: Mapping[str, Tensor], unet: Any) -> Any:
    from diffusers import ControlNetXSAdapter

    stem: Any = network.hint_stem[1::2]  # one width each for two convolutions
    made = ControlNetXSAdapter.from_unet(
        unet,
        block_out_channels=list(network.widths),
        conditioning_channels=network.hint_stem[0],
        conditioning_embedding_out_channels=stem,
    )
    made.float().load_state_dict(dict(state))
    return made


def _adapter(network: Adapter, state: Mapping[str, Tensor]) -> Any:
    from diffusers import T2IAdapter

    config = network.config
    adapter = T2IAdapter(
        in_channels=config.hint_channels,
        channels=list(config.channels),
        num_res_blocks=config.depth,
        downscale_factor=config.unshuffle,
        adapter_type="full_adapter_xl" if config.xl else "full_adapter",
    )
    adapter.load_state_dict(adapter_names(state, config.depth))
    return adapter


def adapter_names(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return the weights of a full adapter by diffusers' names: the first block's change of width is its level's."""
    found: dict[str, Tensor] = {}
    for name, each in state.items():
        first, *parts = name.split(".")
        if first != "body":
            found[f"adapter.{name}"] = each
            continue
        level, block = divmod(int(parts[0]), depth)
        inside = "in_conv" if parts[1] == "in_conv" else f"resnets.{block}.{parts[1]}"
        found[f"adapter.body.{level}.{inside}.{'.'.join(parts[2:])}"] = each
    return found
