"""Which family a file is, from names and shapes at full size, through files that hold nothing but a true header.

The lists come from two sources that must agree: diffusers' classes on the meta device, renamed by our table, and the
block structure of the original code, written down here by hand (lllyasviel/ControlNet `cldm/cldm.py`,
TencentARC/T2I-Adapter `ldm/modules/encoders/adapter.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import UnsupportedModelError
from controlstack.models.families.controlnet.config import ControlNetConfig
from controlstack.models.families.t2i_adapter import AdapterConfig
from controlstack.models.files.loading import read_header
from controlstack.models.naming import to_ldm
from controlstack.models.registry import REGISTRY, identify, inspect, load_control_model
from diffusers import ControlNetModel, ControlNetUnionModel, T2IAdapter, UNet2DConditionModel
from sparse_files import Shapes, write_sparse

HINT_STEM = (16, 16, 32, 32, 96, 96, 256)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A public ControlNet: its structure, and what `inspect` must say."""

    widths: tuple[int, ...]  # of each level
    depths: tuple[int, ...]  # transformer blocks of each level; two residual blocks a level
    middle: int | None  # transformer blocks in the middle; None: the middle is one residual block
    context: int
    label: int = 0
    linear: bool = True
    base: str
    millions: float  # of parameters, as published or counted from the public code
    heads: tuple[int | None, int | None] = (None, 64)  # (number, channels of one)
    config: dict[str, Any]  # of diffusers' class


XL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD_WIDTHS, XL_WIDTHS = (320, 640, 1280, 1280), (320, 640, 1280)
PLAIN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
CONTROLNETS = {
    "SD 1.5": Architecture(
        widths=SD_WIDTHS, depths=(1, 1, 1, 0), middle=1, context=768, linear=False, heads=(8, None),
        base="SD 1.x", millions=361.3, config={"cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    "SD 2.1": Architecture(
        widths=SD_WIDTHS, depths=(1, 1, 1, 0), middle=1, context=1024, base="SD 2.x", millions=364.2,
        config={
            "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
        },
    ),
    "SDXL": Architecture(
        widths=XL_WIDTHS, depths=(0, 2, 10), middle=10, context=2048, label=2816, base="SDXL", millions=1251.0,
        config={**XL, "down_block_types": (PLAIN, CROSS, CROSS), "transformer_layers_per_block": (1, 2, 10)},
    ),
    "SDXL mid": Architecture(
        widths=XL_WIDTHS, depths=(0, 0, 1), middle=1, context=2048, label=2816, base="SDXL", millions=270.9,
        config={**XL, "down_block_types": (PLAIN, PLAIN, CROSS)},
    ),
    "SDXL small": Architecture(
        widths=XL_WIDTHS, depths=(0, 0, 0), middle=None, context=2048, label=2816, heads=(None, None),
        base="SDXL", millions=125.7,
        config={**XL, "down_block_types": (PLAIN,) * 3, "mid_block_type": "UNetMidBlock2D"},
    ),
}  # fmt: skip


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    weight = {f"{name}.weight": shape}
    return {**weight, f"{name}.bias": shape[:1]} if bias else weight


def _residual_block(name: str, width: int, out: int) -> Shapes:
    skip = {} if width == out else _layer(f"{name}.skip_connection", out, width, 1, 1)
    return {
        **_layer(f"{name}.in_layers.0", width),
        **_layer(f"{name}.in_layers.2", out, width, 3, 3),
        **_layer(f"{name}.emb_layers.1", out, 1280),
        **_layer(f"{name}.out_layers.0", out),
        **_layer(f"{name}.out_layers.3", out, out, 3, 3),
        **skip,
    }


def _transformer(name: str, width: int, depth: int, context: int, linear: bool) -> Shapes:
    square = (width, width) if linear else (width, width, 1, 1)
    shapes = {**_layer(f"{name}.norm", width), **_layer(f"{name}.proj_in", *square)}
    for k in range(depth):
        block = f"{name}.transformer_blocks.{k}"
        for attention, keys in (("attn1", width), ("attn2", context)):
            shapes |= _layer(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_k", width, keys, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_v", width, keys, bias=False)
            shapes |= _layer(f"{block}.{attention}.to_out.0", width, width)
        shapes |= _layer(f"{block}.ff.net.0.proj", 8 * width, width) | _layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= _layer(f"{block}.{norm}", width)
    return shapes | _layer(f"{name}.proj_out", *square)


def _encoder(kind: Architecture) -> Iterator[tuple[int, Shapes]]:
    """(channels, names) of each input block: the convolution, two blocks a level, a halving between levels."""
    width = kind.widths[0]
    yield width, _layer("input_blocks.0.0", width, 4, 3, 3)
    number = 0
    for level, (out, depth) in enumerate(zip(kind.widths, kind.depths, strict=True)):
        for _ in range(2):
            number += 1
            block = _residual_block(f"input_blocks.{number}.0", width, out)
            if depth:
                block |= _transformer(f"input_blocks.{number}.1", out, depth, kind.context, kind.linear)
            width = out
            yield width, block
        if level < len(kind.widths) - 1:
            number += 1
            yield width, _layer(f"input_blocks.{number}.0.op", width, width, 3, 3)


def _middle(kind: Architecture) -> Shapes:
    width = kind.widths[-1]
    shapes = _residual_block("middle_block.0", width, width)
    if kind.middle is not None:
        shapes |= _transformer("middle_block.1", width, kind.middle, kind.context, kind.linear)
        shapes |= _residual_block("middle_block.2", width, width)
    return shapes


def by_hand(kind: Architecture) -> Shapes:
    """The bare ldm names and shapes of a ControlNet."""
    shapes = _layer("time_embed.0", 1280, 320) | _layer("time_embed.2", 1280, 1280)
    if kind.label:
        shapes |= _layer("label_emb.0.0", 1280, kind.label) | _layer("label_emb.0.2", 1280, 1280)
    for i, (width, out) in enumerate(pairwise((3, *HINT_STEM, 320))):
        shapes |= _layer(f"input_hint_block.{2 * i}", out, width, 3, 3)
    for i, (width, block) in enumerate(_encoder(kind)):
        shapes |= block | _layer(f"zero_convs.{i}.0", width, width, 1, 1)
    width = kind.widths[-1]
    return shapes | _middle(kind) | _layer("middle_block_out.0", width, width, 1, 1)


@cache
def in_diffusers(name: str) -> Shapes:
    """The names and shapes of diffusers' class."""
    with torch.device("meta"):
        return _shapes(ControlNetModel(**CONTROLNETS[name].config))


@cache
@cache
def base_unet() -> Shapes:
    """SD 1.5's U-Net as it stands in a checkpoint."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    return {f"model.diffusion_model.{key}": shape for key, shape in to_ldm(_shapes(unet)).items()}


def _shapes(network: torch.nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _prefixed(shapes: Shapes) -> Shapes:
    return {f"control_model.{key}": shape for key, shape in shapes.items()}


OTHERS = {  # what else a checkpoint holds
    "betas": (1000,),
    "first_stage_model.decoder.up.0.block.0.norm1.weight": (128,),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
}
LAYOUTS: dict[str, tuple[Callable[[str], Shapes], str]] = {  # how a file names things, and what `inspect` calls it
    "ldm": (lambda name: by_hand(CONTROLNETS[name]), "ldm"),
    "prefixed": (lambda name: _prefixed(by_hand(CONTROLNETS[name])), "ldm, prefixed"),
    "checkpoint": (
        lambda name: {**base_unet(), **OTHERS, **_prefixed(by_hand(CONTROLNETS[name]))},
        "full checkpoint",
    ),
    "diffusers": (in_diffusers, "diffusers"),
    "difference": (
        lambda name: {"difference": (0,), **_prefixed(by_hand(CONTROLNETS[name]))},
        "ldm, prefixed (difference)",
    ),
}


@pytest.mark.parametrize("name", CONTROLNETS)
def test_the_two_sources_agree(name: str) -> None:
    assert to_ldm(in_diffusers(name)) == by_hand(CONTROLNETS[name])
    total = sum(math.prod(shape) for shape in by_hand(CONTROLNETS[name]).values())
    assert total / 1e6 == pytest.approx(CONTROLNETS[name].millions, abs=0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CONTROLNETS)
def test_every_controlnet_in_every_layout(tmp_path: Path, name: str, layout: str) -> None:
    make, called = LAYOUTS[layout]
    path, kind = write_sparse(tmp_path / "model.safetensors", make(name)), CONTROLNETS[name]
    assert [family.id for family in REGISTRY if family.detect(make(name))] == ["controlnet"]
    told = inspect(path)
    assert (told.family, told.base, told.layout, told.dtype) == ("ControlNet", kind.base, called, "F16")
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
    assert told.parameters / 1e6 == pytest.approx(kind.millions, abs=0.1)
    assert told.size == path.stat().st_size > 2 * told.parameters


@pytest.mark.parametrize("name", CONTROLNETS)
def test_the_configuration_is_read_from_shapes(name: str) -> None:
    kind, config = CONTROLNETS[name], ControlNetConfig.from_shapes(by_hand(CONTROLNETS[name]))
    depths = [block.depth for block in config.blocks if not block.down]
    assert depths == [depth for depth in kind.depths for _ in range(2)]
    assert [block.channels for block in config.blocks if block.down] == list(kind.widths[:-1])
    assert (config.middle_depth, config.middle_second) == (kind.middle or 0, kind.middle is not None)
    assert (config.heads, config.head_channels) == kind.heads
    assert (config.label or 0, config.hint_channels, config.latent_channels) == (kind.label, 3, 4)
    if any(kind.depths):
        assert (config.context, config.linear) == (kind.context, kind.linear)


@pytest.mark.parametrize(("dtype", "shown"), [("F32", "F32"), ("BF16", "BF16")])
def test_precisions_are_shown(tmp_path: Path, dtype: str, shown: str) -> None:
    path = write_sparse(tmp_path / "model.safetensors", by_hand(CONTROLNETS["SD 1.5"]), dtype)
    assert inspect(path).dtype == shown


def test_a_missing_a_misshapen_and_a_strange_weight_are_listed(tmp_path: Path) -> None:
    shapes = by_hand(CONTROLNETS["SD 1.5"])
    del shapes["zero_convs.3.0.bias"]
    shapes |= {"middle_block_out.0.weight": (640, 1280, 1, 1), "extra.weight": (3,)}
    told = inspect(write_sparse(tmp_path / "model.safetensors", shapes))
    assert told.missing == ("zero_convs.3.0.bias",)
    assert told.misshapen == ("middle_block_out.0.weight",)
    assert told.unexpected == ("extra.weight",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SD 1.5", {"heads": "8"}), ("SD 2.1", {"head_channels": "64"}), ("SDXL", {"head_channels": "64"})],
)
def test_a_diffusers_folder_tells_its_heads(tmp_path: Path, name: str, expected: dict[str, str]) -> None:
    with torch.device("meta"):
        ControlNetModel(**CONTROLNETS[name].config).save_config(tmp_path)
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", in_diffusers(name))
    told = inspect(tmp_path)
    assert {key: told.settings[key] for key in ("heads", "head_channels") if key in told.settings} == expected
    assert told.settings["norm_groups"] == "32"


@pytest.mark.parametrize("key", ["attention_head_dim", "num_attention_heads"])
def test_one_number_of_heads_may_stand_as_a_list(tmp_path: Path, key: str) -> None:
    config = {"attention_head_dim": 5, "block_out_channels": [320, 640, 1280, 1280], key: [8, 8, 8, 8]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", in_diffusers("SD 1.5"))
    assert inspect(tmp_path).settings == {"heads": "8"}


def _union(kinds: int) -> Shapes:
    """What a union of xinsir's has beside an SDXL ControlNet (xinsir6/ControlNetPlus `models/controlnet_union.py`)."""
    block = "transformer_layes.0"
    return {
        "task_embedding": (kinds, 320),
        f"{block}.attn.in_proj_weight": (960, 320),
        f"{block}.attn.in_proj_bias": (960,),
        **_layer(f"{block}.attn.out_proj", 320, 320),
        **_layer(f"{block}.ln_1", 320),
        **_layer(f"{block}.ln_2", 320),
        **_layer(f"{block}.mlp.c_fc", 1280, 320),
        **_layer(f"{block}.mlp.c_proj", 320, 1280),
        **_layer("spatial_ch_projs", 320, 320),
        **_layer("control_add_embedding.linear_1", 1280, 256 * kinds),
        **_layer("control_add_embedding.linear_2", 1280, 1280),
    }


UNIONS = {6: 1255.96, 8: 1256.61}  # kinds of hints: union, ProMax -> parameters in millions


@cache
def union_in_diffusers(kinds: int) -> Shapes:
    with torch.device("meta"):
        stem = HINT_STEM[::2]  # as in the configuration that is published with the weights
        config = {**CONTROLNETS["SDXL"].config, "conditioning_embedding_out_channels": stem, "num_control_type": kinds}
        return _shapes(ControlNetUnionModel(**config))


@pytest.mark.parametrize("layout", ["ldm", "prefixed", "diffusers"])
@pytest.mark.parametrize("kinds", UNIONS)
def test_unions(tmp_path: Path, kinds: int, layout: str) -> None:
    bare = {**by_hand(CONTROLNETS["SDXL"]), **_union(kinds)}
    assert to_ldm(union_in_diffusers(kinds)) == bare
    shapes = {"ldm": bare, "prefixed": _prefixed(bare), "diffusers": union_in_diffusers(kinds)}[layout]
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["union"]
    told = inspect(write_sparse(tmp_path / "model.safetensors", shapes))
    assert (told.family, told.base) == ("ControlNet-Union", "SDXL")
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
    assert told.parameters / 1e6 == pytest.approx(UNIONS[kinds], abs=0.005)


def _adapter(channels: tuple[int, ...], first: int) -> Shapes:
    """`Adapter`: eight residual blocks, two a level, a 1x1 convolution where the width changes."""
    shapes, width = _layer("conv_in", channels[0], first, 3, 3), channels[0]
    for i, out in enumerate(out for out in channels for _ in range(2)):
        if out != width:
            shapes |= _layer(f"body.{i}.in_conv", out, width, 1, 1)
        shapes |= _layer(f"body.{i}.block1", out, out, 3, 3) | _layer(f"body.{i}.block2", out, out, 1, 1)
        width = out
    return shapes


def _light_adapter(channels: tuple[int, ...], first: int) -> Shapes:
    """`Adapter_light`: four extractors, each at a quarter of its width, with four residual blocks."""
    shapes: Shapes = {}
    for i, (width, out) in enumerate(pairwise((first, *channels))):
        inner = out // 4
        shapes |= _layer(f"body.{i}.in_conv", inner, width, 1, 1) | _layer(f"body.{i}.out_conv", out, inner, 1, 1)
        for j in range(4):
            for block in ("block1", "block2"):
                shapes |= _layer(f"body.{i}.body.{j}.{block}", inner, inner, 3, 3)
    return shapes


def _style_adapter() -> Shapes:
    """`StyleAdapter(width=1024, context_dim=768, num_head=8, n_layes=3, num_token=8)`."""
    shapes: Shapes = {"style_embedding": (1, 8, 1024), "proj": (1024, 768)}
    for i in range(3):
        name = f"transformer_layes.{i}"
        shapes |= {f"{name}.attn.in_proj_weight": (3072, 1024), f"{name}.attn.in_proj_bias": (3072,)}
        shapes |= _layer(f"{name}.attn.out_proj", 1024, 1024)
        shapes |= _layer(f"{name}.ln_1", 1024) | _layer(f"{name}.ln_2", 1024)
        shapes |= _layer(f"{name}.mlp.c_fc", 4096, 1024) | _layer(f"{name}.mlp.c_proj", 1024, 4096)
    return shapes | _layer("ln_post", 1024) | _layer("ln_pre", 1024)


FOUR = (320, 640, 1280, 1280)
FULL: dict[str, Any] = {"adapter_type": "full_adapter"}
LIGHT: dict[str, Any] = {"channels": [320, 640, 1280], "num_res_blocks": 4, "adapter_type": "light_adapter"}
BIG: dict[str, Any] = {"downscale_factor": 16, "adapter_type": "full_adapter_xl"}
ADAPTERS = {  # (by hand, diffusers' configuration, hint channels, base, parameters in millions)
    "full": (_adapter(FOUR, 192), {"in_channels": 3, **FULL}, 3, "SD 1.x or 2.x", 77.4),
    "full, one channel": (_adapter(FOUR, 64), {"in_channels": 1, **FULL}, 1, "SD 1.x or 2.x", 77.0),
    "light": (_light_adapter(FOUR, 192), {"in_channels": 3, **LIGHT}, 3, "SD 1.x or 2.x", 18.7),
    "SDXL": (_adapter(FOUR, 768), {"in_channels": 3, **BIG}, 3, "SDXL", 79.0),
    "SDXL, one channel": (_adapter(FOUR, 256), {"in_channels": 1, **BIG}, 1, "SDXL", 77.6),
}


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_in_both_layouts(tmp_path: Path, name: str, layout: str) -> None:
    by_hand_shapes, config, channels, base, millions = ADAPTERS[name]
    with torch.device("meta"):
        theirs = _shapes(T2IAdapter(**config))
    shapes = by_hand_shapes if layout == "original" else theirs
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["t2i-adapter"]
    told = inspect(write_sparse(tmp_path / "model.safetensors", shapes))
    assert (told.family, told.base, told.layout) == ("T2I-Adapter", base, layout)
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
    assert told.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    read = AdapterConfig.from_shapes(by_hand_shapes)
    assert (read.hint_channels, read.xl, read.light) == (channels, base == "SDXL", name == "light")
    assert (read.channels, read.depth) == (FOUR, 4 if name == "light" else 2)


def test_an_adapter_in_a_diffusers_folder(tmp_path: Path) -> None:
    with torch.device("meta"):
        adapter = T2IAdapter(in_channels=3, **BIG)
    adapter.save_config(tmp_path)
    write_sparse(tmp_path / "diffusion_pytorch_model.safetensors", _shapes(adapter))
    assert (inspect(tmp_path).base, inspect(tmp_path).settings) == ("SDXL", {})


def test_the_style_adapter(tmp_path: Path) -> None:
    assert [family.id for family in REGISTRY if family.detect(_style_adapter())] == ["t2i-style"]
    told = inspect(write_sparse(tmp_path / "model.safetensors", _style_adapter()))
    assert (told.family, told.base) == ("T2I-Adapter (style)", "SD 1.x")
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())


@cache
def _attention_layers() -> list[str]:
    """The linear layers of SD 1.5's attention in diffusers' names, which LoRAs are made for."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    kinds = (".to_q", ".to_k", ".to_v", ".to_out.0")
    return [name for name, _ in unet.named_modules() if name.endswith(kinds)]


def _lora(form: str, ends: tuple[str, str]) -> Shapes:
    """`form` holds the place of a layer's name."""
    shapes: Shapes = {}
    for name in _attention_layers():
        whole = form.format(dotted=name, flat=name.replace(".", "_"))
        shapes |= {whole + ends[0]: (4, 320), whole + ends[1]: (320, 4)}
    return shapes


LDM_VAE = {
    **_layer("encoder.conv_in", 128, 3, 3, 3), **_layer("encoder.down.0.block.0.conv1", 128, 128, 3, 3),
    **_layer("decoder.conv_in", 512, 4, 3, 3), **_layer("decoder.up.0.block.0.conv1", 128, 256, 3, 3),
    **_layer("quant_conv", 8, 8, 1, 1), **_layer("post_quant_conv", 4, 4, 1, 1),
}  # fmt: skip
CLIP = {
    "text_model.embeddings.token_embedding.weight": (49408, 768),
    **_layer("text_model.encoder.layers.0.self_attn.q_proj", 768, 768),
    **_layer("text_model.final_layer_norm", 768),
}
NO_CONTROL: dict[str, tuple[Callable[[], Shapes], str]] = {  # (names, what the sentence calls it)
    "LoRA, kohya": (lambda: _lora("lora_unet_{flat}", (".lora_down.weight", ".lora_up.weight")), "LoRA"),
    "LoRA, kohya, no attention": (lambda: {"lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": (3, 3)}, "LoRA"),
    "LoRA, diffusers": (lambda: _lora("unet.{dotted}", (".lora_A.weight", ".lora_B.weight")), "LoRA"),
    "LoRA, old diffusers": (lambda: _lora("{dotted}", (".processor.to_q_lora.down.weight", ".to_q_lora.up")), "LoRA"),
    "LyCORIS": (lambda: _lora("lycoris_{flat}", (".lokr_w1", ".lokr_w2")), "LoRA"),
    "VAE, ldm": (lambda: LDM_VAE, "VAE"),
    "VAE, in a checkpoint": (lambda: {f"first_stage_model.{key}": shape for key, shape in LDM_VAE.items()}, "VAE"),
    "VAE, diffusers": (
        lambda: {**_layer("encoder.conv_in", 128, 3, 3, 3), **_layer("decoder.up_blocks.0.resnets.0.conv1", 512, 512)},
        "VAE",
    ),
    "TAESD": (lambda: _layer("decoder.layers.0", 64, 4, 3, 3), "VAE"),
    "checkpoint": (lambda: {**base_unet(), **OTHERS}, "checkpoint without a control model"),
    "checkpoint, SDXL": (
        lambda: {**base_unet(), "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,)},
        "checkpoint without a control model",
    ),
    "U-Net, diffusers": (
        lambda: {"conv_in.weight": (320, 4, 3, 3), **_layer("up_blocks.0.resnets.0.conv1", 1280, 2560, 3, 3)},
        "U-Net",
    ),
    "U-Net, ldm": (
        lambda: {key.removeprefix("model.diffusion_model."): shape for key, shape in base_unet().items()},
        "U-Net",
    ),
    "CLIP": (lambda: CLIP, "text encoder"),
    "OpenCLIP": (lambda: _layer("transformer.resblocks.0.attn.out_proj", 1024, 1024), "text encoder"),
    "T5": (lambda: {"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}, "text encoder"),
    "CLIP vision": (lambda: _layer("vision_model.encoder.layers.0.self_attn.q_proj", 1024, 1024), "image encoder"),
    "IP-Adapter FaceID": (lambda: {"ip_adapter.0.to_q_lora.down.weight": (128, 320)}, "IP-Adapter"),
    "upscaler, ESRGAN": (lambda: {"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}, "upscaler"),
    "upscaler, RealESRGAN": (
        lambda: {**_layer("conv_first", 64, 3, 3, 3), **_layer("body.0.rdb1.conv1", 32, 64, 3, 3)},
        "upscaler",
    ),
    "upscaler, SwinIR": (
        lambda: {**_layer("conv_first", 180, 3, 3, 3), **_layer("conv_after_body", 180, 180, 3, 3)},
        "upscaler",
    ),
    "embedding": (lambda: {"emb_params": (8, 768)}, "textual-inversion"),
    "embedding, SDXL": (lambda: {"clip_g": (8, 1280), "clip_l": (8, 768)}, "textual-inversion"),
}


@pytest.mark.parametrize("name", NO_CONTROL)
def test_what_is_no_control_model_is_named(tmp_path: Path, name: str) -> None:
    make, words = NO_CONTROL[name]
    assert not any(family.detect(make()) for family in REGISTRY)
    path = write_sparse(tmp_path / "file.safetensors", make())
    for use in (inspect, load_control_model, lambda file: identify(read_header(file))):
        with pytest.raises(UnsupportedModelError, match=words) as caught:
            use(path)
        assert str(caught.value).startswith("'file.safetensors' is no control model: it is a")
