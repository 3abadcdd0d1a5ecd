"""Small control model files for host tests, random but such that the hint matters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from controlstack.models.families.controlnet.config import Block, ControlNetConfig, ControlNetSettings
from controlstack.models.families.controlnet.network import ControlNet
from controlstack.models.families.controlnet_lite import ControlNetLite, LiteConfig
from controlstack.models.families.controlnext import ControlNeXt
from controlstack.models.families.ip_adapter.family import FAMILY as IP_ADAPTER
from controlstack.models.families.ip_adapter.family import IPAdapterSettings
from controlstack.models.families.t2i_adapter import Adapter, AdapterConfig, StyleAdapter
from controlstack.models.families.uni.family import FAMILY as UNI
from controlstack.models.families.uni.family import LOCAL
from controlstack.models.families.uni.network import GLOBAL
from controlstack.models.families.union import UnionNet
from controlstack.models.layers import STANDARD
from controlstack.preprocessors import find
from safetensors.torch import save_file
from torch import nn
from uni_shapes import both, global_adapter, local_adapter

HEADS = 4
SEEN = 48  # width of what the small encoders see in a picture; the width of no real one
NARROW_ENCODER = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 16}
POOLED = 1280  # width of SDXL's pooled prompt, and of what its image encoder sees
GAIN = 0.7  # of a layer, relative to one that keeps the variance
HINT_GAIN = 1.8  # of the hint encoder's layers: with less, residuals hardly depend on the hint, and any would pass
RESIDUAL_GAIN = 0.6

SD_BLOCKS = (
    *(Block(32, 1), Block(32, 1), Block(32, down=True)),
    *(Block(64, 1), Block(64, 1), Block(64, down=True)),
    *(Block(128, 1), Block(128, 1), Block(128, down=True)),
    *(Block(128), Block(128)),
)
SDXL_BLOCKS = (
    *(Block(64), Block(64), Block(64, down=True)),
    *(Block(128, 1), Block(128, 1), Block(128, down=True)),
    *(Block(128, 2), Block(128, 2)),
)


def write_all(folder: Path, heads: int = HEADS) -> None:
    """Every file that the host tests name. heads: of the SD models; some hosts take 8 whatever a file says."""
    for name, seed in (("canny", 1), ("depth", 2), ("pose", 3)):
        _save(folder / f"{name}.safetensors", _controlnet("SD", seed, heads), {"heads": str(heads)})
    _save(folder / "xl.safetensors", _controlnet("SDXL", 4), {"head_channels": "16"})
    _save(folder / "t2i.safetensors", _adapter(5), {})
    style = StyleAdapter(64, 64, count=8, layers=1)
    _fill(style, 7)
    _save(folder / "style.safetensors", style, {})
    _save(folder / "adapter.safetensors", _ip_adapter(10), {"heads": str(heads)})
    save_file({"lora_unet_x.lora_down.weight": torch.ones(4, 4)}, folder / "lora.safetensors")


def write_narrow_xl(folder: Path) -> None:
    """A ControlNet and a T2I-Adapter of an SDXL whose levels widen by 1, 2 and 4, as real ones do."""
    blocks = (*SD_BLOCKS[:2], Block(32, down=True), *SD_BLOCKS[3:6], Block(128, 2), Block(128, 2))
    blocks = (replace(blocks[0], depth=0), replace(blocks[1], depth=0), *blocks[2:])
    _save(folder / "xl.safetensors", _controlnet("SDXL", 4, blocks=blocks), {"head_channels": "16"})
    _save(folder / "t2i_xl.safetensors", _adapter(7, xl=True), {})


def write_v2(folder: Path) -> None:
    """A ControlNet of SD 2.x, whose transformers are linear."""
    _save(folder / "v2.safetensors", _controlnet("SD 2.x", 6), {"head_channels": "16"})


def write_controlnet(path: Path, seed: int, heads: int, width: int) -> None:
    """One ControlNet for an SD base model of another width."""
    _save(path, _controlnet("SD", seed, heads, width), {"heads": str(heads)})


def write_controlnext(folder: Path) -> None:
    """A ControlNeXt for the SD base models, `next`, and what it changes in their weights."""
    shapes = {"time_embedding.linear_1.weight": (24, 16), "mid_convs.1.weight": (SD_BLOCKS[0].channels, 32, 1, 1)}
    shapes |= {"embedding.0.weight": (8, 3), "embedding.3.weight": (8, 8), "embedding.6.weight": (16, 8)}
    shapes |= {"down_res.0.conv1.weight": (16, 16), "down_res.1.conv1.weight": (32, 16)}
    network = ControlNeXt(shapes, STANDARD)
    _fill(network, 8)
    _save(folder / "next.safetensors", network, {"companion_holds": "increments"})
    generator, names = torch.Generator().manual_seed(9), {"input_blocks.1.1": 32, "middle_block.1": 128}
    difference = {
        f"{name}.transformer_blocks.0.{attention}.to_out.0.{part}": torch.randn(shape, generator=generator) * 0.1
        for name, width in names.items()
        for attention in ("attn1", "attn2")
        for part, shape in (("weight", (width, width)), ("bias", (width,)))
    }
    save_file(difference, folder / "next_unet.safetensors")


def write_encoders(folder: Path) -> None:
    """Small image encoders where a store of this folder looks for those of CLIP, as wide as our adapters here read."""
    import transformers  # here: few tests need it

    for name, projected in (("clip_vision", 64), ("clip_h", SEEN), ("clip_g", POOLED)):
        config = transformers.CLIPVisionConfig(
            **NARROW_ENCODER, image_size=56, patch_size=14, projection_dim=projected
        )  # fmt: skip
        network = transformers.CLIPVisionModelWithProjection(config)
        _fill(network, 11)
        path = folder / find(name).networks[0].files[0].name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), path)


def write_large_encoder(folder: Path) -> None:
    """A small image encoder for CLIP ViT-bigG and pictures of 224 px, also where sd-webui-controlnet looks for it."""
    import transformers

    sizes = {**NARROW_ENCODER, "image_size": 224, "patch_size": 14, "projection_dim": POOLED}
    network = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**sizes, hidden_act="gelu"))
    _fill(network, 12)
    path, theirs = folder / find("clip_g").networks[0].files[0].name, folder / "clip_vision" / "clip_g.pth"
    for each in (path, theirs):
        each.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)
    torch.save(network.state_dict(), theirs, _use_new_zipfile_serialization=False)  # the WebUI knows no newer one


def write_control_lora(folder: Path, heads: int = HEADS) -> None:
    """A Control-LoRA for the SD base models, `clora`."""
    own, generator = ("input_hint_block.", "zero_convs.", "middle_block_out."), torch.Generator().manual_seed(10)
    file = {"lora_controlnet": torch.zeros(0)}
    for name, each in _controlnet("SD", 11).state_dict().items():
        stem = name.removesuffix(".weight")
        if each.ndim == 1 or name.startswith(own):
            file[name] = each.contiguous()
        else:
            ones = (1,) * (each.ndim - 2)
            file[f"{stem}.up"] = torch.randn(len(each), 4, *ones, generator=generator) * 0.05
            file[f"{stem}.down"] = torch.randn(4, *each.shape[1:], generator=generator) * 0.2
    save_file(file, folder / "clora.safetensors", {"controlstack.heads": str(heads)})


def write_ctrlora(folder: Path, heads: int = HEADS) -> None:
    """A CtrLoRA for the SD base models, `ctrlora_canny`, and its base ControlNet, `ctrlora`."""
    generator, small, base = torch.Generator().manual_seed(14), dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for name, each in _controlnet("SD", 12).state_dict().items():
        key, stem = f"control_model.{name}", f"control_model.{name.removesuffix('weight')}lora_layer"
        if name.startswith("input_hint_block."):
            continue
        base[key] = each.contiguous()
        if name.endswith(".weight") and each.ndim == 2:
            small[f"{stem}.up.weight"] = torch.randn(len(each), 4, generator=generator) * 0.05
            small[f"{stem}.down.weight"] = torch.randn(4, each.shape[1], generator=generator) * 0.2
        elif name.startswith(("zero_convs.", "middle_block_out.")):
            small[key] = each * 1.5
    save_file(base, folder / "ctrlora.safetensors")
    save_file(small, folder / "ctrlora_canny.safetensors", {"controlstack.heads": str(heads)})


def write_lllite(folder: Path) -> None:
    """A ControlLLLite for the SD base models, `lllite`: the inputs of one self-attention, the queries of the other."""
    generator, file = torch.Generator().manual_seed(13), dict[str, torch.Tensor]()
    block, width = "input_blocks_1_1", 32
    for projection in ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q"):
        shapes = {"conditioning1.0": (4, 3, 4, 4), "conditioning1.2": (8, 4, 2, 2)}
        shapes |= {"down.0": (6, width), "mid.0": (6, 14), "up.0": (width, 6)}
        for name, shape in shapes.items():
            fan = torch.Size(shape[1:]).numel()
            prefix = f"lllite_unet_{block}_transformer_blocks_0_{projection}.{name}"
            file[f"{prefix}.weight"] = torch.randn(shape, generator=generator) * 2 / fan**0.5
            file[f"{prefix}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    save_file(file, folder / "lllite.safetensors")


def write_lite(folder: Path) -> None:
    """A ControlNet-Lite for the SD base models, `lite`."""
    halvings = frozenset(i + 1 for i, block in enumerate(SD_BLOCKS) if block.down)
    widths = (SD_BLOCKS[0].channels, *(block.channels for block in SD_BLOCKS))
    network = ControlNetLite(LiteConfig(widths=widths, halvings=halvings), STANDARD)
    _fill(network, 14)
    _save(folder / "lite.safetensors", network, {})


def write_unions(folder: Path, heads: int = HEADS) -> None:
    """Unions of eight kinds of hints, for the SDXL and the SD base models; heads: of the latter."""
    _save(folder / "union.safetensors", _controlnet("SDXL", 10, union=True), {"head_channels": "16"})
    _save(folder / "union_sd.safetensors", _controlnet("SD", 11, heads, union=True), {"heads": str(heads)})


def write_uni(folder: Path, heads: int = HEADS, widths: tuple[int, ...] = (32, 64, 128, 128)) -> None:
    """A Uni-ControlNet for the SD base models, `uni`, whose global adapter reads what the small encoder sees."""
    shapes = both(local_adapter(widths, 64, (8, 12, 16, 20)), global_adapter(64))
    network = UNI.create(UNI.rename(shapes), ControlNetSettings(heads=heads), STANDARD)
    _fill(network, 15)
    for layer in network.feature_extractor.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data *= HINT_GAIN / GAIN
    state = {name if name.startswith(GLOBAL) else LOCAL + name: each for name, each in network.state_dict().items()}
    save_file(state, folder / "uni.safetensors", {"controlstack.heads": str(heads)})


def write_taught(folder: Path, learned: str, heads: int = HEADS) -> None:
    """A union for the SD base models, `taught`, trained on some kinds of hints; learned: these, with commas between."""
    _save(
        folder / "taught.safetensors",
        _controlnet("SD", 11, heads, union=True),
        {"heads": str(heads), "learned": learned},
    )


def write_full(folder: Path) -> None:
    """Three ControlNets and an adapter of SD 1.5's true size, 1.4 GB and 0.3 GB, for benchmarks."""
    for seed in (1, 2, 3):
        config = ControlNetConfig(
            channels=320,
            blocks=_wide(10),
            middle_depth=1,
            context=768,
            label=None,
            linear=False,
            heads=8,
            head_channels=None,
        )
        network = ControlNet(config)
        _fill(network, seed)
        _save(folder / f"full-{seed}.safetensors", network, {"heads": "8"})
    adapter = AdapterConfig(
        channels=(320, 640, 1280, 1280), inner=(320, 640, 1280, 1280), depth=2, kernel=1, hint_channels=3, xl=False
    )
    network = Adapter(adapter)
    _fill(network, 4)
    _save(folder / "full-t2i.safetensors", network, {})


def write_narrow(folder: Path, count: int, width: int, context: int) -> None:
    """Some ControlNets of SD 1.5's layout, `narrow-0` and further, for benchmarks. context: width of the prompt."""
    for number in range(count):
        config = ControlNetConfig(
            channels=width, blocks=_wide(width // SD_BLOCKS[0].channels), middle_depth=1, context=context, heads=8
        )
        network = ControlNet(config)
        _fill(network, number)
        _save(folder / f"narrow-{number}.safetensors", network, {"heads": "8"})


def _wide(factor: int) -> tuple[Block, ...]:
    return tuple(replace(block, channels=block.channels * factor) for block in SD_BLOCKS)


def _controlnet(
    kind: str,
    seed: int,
    heads: int = HEADS,
    width: int = SD_BLOCKS[0].channels,
    blocks: tuple[Block, ...] = SDXL_BLOCKS,
    union: bool = False,
) -> ControlNet:
    """blocks: of SDXL; width: of the others."""
    xl, sd1 = kind == "SDXL", kind == "SD"
    config = ControlNetConfig(
        channels=blocks[0].channels if xl else width,
        blocks=blocks if xl else _wide(width // SD_BLOCKS[0].channels),
        middle_depth=2 if xl else 1,
        context=64,
        label=2816 if xl else None,
        linear=not sd1,
        heads=heads if sd1 else None,
        head_channels=None if sd1 else 16,
    )
    network = UnionNet(config, kinds=8, sinusoids=256, layers=1, kit=STANDARD) if union else ControlNet(config)
    _fill(network, seed)
    for layer in (*(conv[0] for conv in network.zero_convs), network.middle_block_out[0]):
        layer.weight.data *= RESIDUAL_GAIN
    for layer in network.input_hint_block[::2]:
        layer.weight.data *= HINT_GAIN / GAIN
        layer.bias.data.zero_()
    return network


def _ip_adapter(seed: int) -> nn.Module:
    """A plain IP-Adapter of the SD base models."""
    inside = [32, 32, 64, 64, 128, 128]
    widths = [*inside, *(width for width in (128, 64, 32) for _ in range(3)), 128]
    shapes = {"image_proj.proj.weight": (4 * 64, SEEN)}
    for number, width in enumerate(widths):
        shapes |= {f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight": (width, 64) for part in "kv"}
    network = IP_ADAPTER.create(shapes, IPAdapterSettings(heads=HEADS), STANDARD)
    _fill(network, seed)
    return network


def _adapter(seed: int, xl: bool = False) -> Adapter:
    widths = (32, 64, 128, 128)
    config = AdapterConfig(channels=widths, inner=widths, depth=2, kernel=1, hint_channels=3, xl=xl)
    network = Adapter(config)
    _fill(network, seed)
    return network


def _fill(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.05)
        else:
            fan = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * GAIN / fan**0.5


def _save(path: Path, network: nn.Module, settings: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {f"controlstack.{name}": value for name, value in settings.items()}
    save_file({name: each.contiguous() for name, each in network.state_dict().items()}, path, metadata)
