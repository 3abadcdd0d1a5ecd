"""IP-Adapters against diffusers' own loader, projections and attention processors, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.control import ControlModel
from controlstack.core.embedding import Encoder, Values
from controlstack.core.errors import ControlError, HintError, IncompatibleModelError, ModelError
from controlstack.core.network.attach import Patches, attach_shifts
from controlstack.core.network.points import Block, Part
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.families.ip_adapter.family import FAMILY
from controlstack.models.families.ip_adapter.layers import WEIGHT_TYPES, factors, points_of
from controlstack.models.families.ip_adapter.model import IPAdapterModel
from controlstack.models.registry import identify, inspect, load_control_model
from controlstack.pipelines.attached import base_of, check_units, locate_in
from diffusers import UNet2DConditionModel
from oracle import PICTURES, TOLERANCE, assert_close, randomise, relative_error, step_of
from safetensors.torch import save_file
from sparse_files import write_sparse
from torch import Tensor, nn

CONTEXT, SEEN, HEADS = 64, 48, 4
KINDS = ("plain", "plus", "full")
State = dict[str, Tensor]


def attentive(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Random weights, and a cross-attention that counts."""
    for name, parameter in randomise(unet).named_parameters():
        if "attn2.to_out" in name:
            parameter.data *= 20
    return unet


def unet_sd() -> UNet2DConditionModel:
    return attentive(UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 96, 96), layers_per_block=2, cross_attention_dim=CONTEXT,
        attention_head_dim=HEADS, up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    ))  # fmt: skip


def unet_xl() -> UNet2DConditionModel:
    return attentive(UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 96), layers_per_block=2, cross_attention_dim=CONTEXT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4, 6),
        transformer_layers_per_block=(1, 2, 3), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
    ))  # fmt: skip


UNETS: dict[str, tuple[Callable[[], UNet2DConditionModel], dict[str, int]]] = {
    "SD": (unet_sd, {"heads": HEADS}), "SDXL": (unet_xl, {"head_channels": 16}),
}  # fmt: skip


def projection(kind: str, width: int = SEEN, context: int = CONTEXT) -> dict[str, tuple[int, ...]]:
    """The shapes of an image projection by the published names."""
    if kind == "plain":
        return {"proj.weight": (4 * context, width), "proj.bias": (4 * context,), "norm.weight": (context,),
                "norm.bias": (context,)}  # fmt: skip
    if kind == "full":
        return {"proj.0.weight": (width, width), "proj.0.bias": (width,), "proj.2.weight": (context, width),
                "proj.2.bias": (context,), "proj.3.weight": (context,), "proj.3.bias": (context,)}  # fmt: skip
    return resampler(width, 80, 128, 4 * 80, context, tokens=5)


def resampler(
    seen: int, width: int, inner: int, feed: int, context: int, tokens: int = 16, depth: int = 4
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, tokens, width), "proj_in.weight": (width, seen), "proj_in.bias": (width,),
        "proj_out.weight": (context, width), "proj_out.bias": (context,), "norm_out.weight": (context,),
        "norm_out.bias": (context,),
    }  # fmt: skip
    for i in range(depth):
        attention, forward = f"layers.{i}.0", f"layers.{i}.1"
        for norm in (f"{attention}.norm1", f"{attention}.norm2", f"{forward}.0"):
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        shapes |= {
            f"{attention}.to_q.weight": (inner, width), f"{attention}.to_kv.weight": (2 * inner, width),
            f"{attention}.to_out.weight": (width, inner), f"{forward}.1.weight": (feed, width),
            f"{forward}.3.weight": (width, feed),
        }  # fmt: skip
    return shapes


def layers(widths: list[int], context: int) -> dict[str, tuple[int, ...]]:
    return {
        f"ip_adapter.{2 * k + 1}.to_{part}_ip.weight": (width, context)
        for k, width in enumerate(widths)
        for part in ("k", "v")
    }


def widths_of(unet: Any) -> list[int]:
    """The widths of a U-Net's cross-attentions, in the order of diffusers' processors."""
    names = [name for name in unet.attn_processors if ".attn2." in name]
    return [unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in names]


def state_of(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) > 1 else 5)
        for name, shape in shapes.items()
    }


def file_of(kind: str, unet: Any) -> State:
    parts = {f"image_proj.{name}": shape for name, shape in projection(kind).items()}
    state = state_of({**parts, **layers(widths_of(unet), CONTEXT)})
    return {name: each * (4 if name.startswith("ip_adapter") else 1) for name, each in state.items()}


def nested(state: State) -> dict[str, State]:
    """As .bin files have it: tables inside each other."""
    return {
        part: {name[len(part) + 1 :]: each for name, each in state.items() if name.startswith(f"{part}.")}
        for part in ("image_proj", "ip_adapter")
    }


def load(state: State, folder: Path, settings: dict[str, int], pickled: bool = False) -> ControlModel:
    path = folder / f"adapter.{'bin' if pickled else 'safetensors'}"
    if pickled:
        torch.save(nested(state), path)
    else:
        save_file(state, path)
    return load_control_model(path, settings=settings)


def seen_by(kind: str, count: int = PICTURES, seed: int = 3) -> tuple[Tensor, Tensor]:
    """What an encoder saw in pictures, and in none: as diffusers' pipelines hand it over."""
    tokens = 1 if kind == "plain" else 7
    seen = torch.randn(count, tokens, SEEN, generator=torch.Generator().manual_seed(seed))
    grey = torch.randn(1, tokens, SEEN, generator=torch.Generator().manual_seed(seed + 1)).expand(count, -1, -1)
    return seen, torch.zeros_like(seen) if kind == "plain" else grey


def hint_of(kind: str, seen: Tensor, none: Tensor) -> Tensor:
    return seen if kind == "plain" else torch.cat([seen, none], dim=-1)


def by_diffusers(unet: Any, state: State, step: Any, more: dict[str, Any], kind: str, pairs: list[Any], scale: float,
                 masks: Tensor | None = None) -> Tensor:  # fmt: skip
    """pairs: (seen, none) of each picture that all rows get beside the others; masks: [1, 1, H, W]."""
    unet._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [scale]
    embeds = torch.stack([torch.cat([none, seen]) for seen, none in pairs], dim=1)  # [rows, pictures, T, D]
    embeds = embeds[:, :, 0] if kind == "plain" else embeds
    added = {**more.get("added_cond_kwargs", {}), "image_embeds": [embeds]}
    masked = {} if masks is None else {"cross_attention_kwargs": {"ip_adapter_masks": [masks]}}
    with torch.no_grad():
        return unet(step.x, step.timestep, step.context, added_cond_kwargs=added, **masked).sample


def by_stack(unet: Any, step: Any, more: dict[str, Any], **unit: Any) -> Tensor:
    one = ControlUnit(**unit)
    check_units([one], unet)
    with Patches() as patches, torch.no_grad():
        attach_shifts(patches, ControlStack([one])(step), locate_in(unet))
        return unet(step.x, step.timestep, step.context, **more).sample


def change(answer: Tensor, unet: Any, step: Any, more: dict[str, Any]) -> Tensor:
    """What the adapter changes in the base network's answer."""
    with torch.no_grad():
        return answer - unet(step.x, step.timestep, step.context, **more).sample


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", UNETS)
def test_it_does_what_diffusers_does(base: str, kind: str, pickled: bool, tmp_path: Path) -> None:
    make, settings = UNETS[base]
    unet = make()
    state = file_of(kind, unet)
    model = load(state, tmp_path, settings, pickled)
    step, more = step_of(unet)
    seen, none = seen_by(kind)
    ours = by_stack(unet, step, more, model=model, hint=hint_of(kind, seen, none), weight=0.7)
    changed = change(ours, unet, step, more)
    theirs = by_diffusers(make(), state, step, more, kind, [(seen, none)], 0.7)
    assert_close(ours, theirs)
    assert relative_error(changed, change(theirs, unet, step, more)) < 1e-3
    assert changed.abs().max() > 0.01 * ours.abs().max()
    assert changed[:PICTURES].abs().max() > 0  # the uncond rows see tokens too


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_beside_each_other_are_those_of_diffusers(kind: str, tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    unet = make()
    state = file_of(kind, unet)
    model = load(state, tmp_path, settings).bind({"pictures": "concat"})
    step, more = step_of(unet)
    one, none = seen_by(kind, count=1)
    two, _ = seen_by(kind, count=1, seed=8)
    hint = torch.cat([hint_of(kind, each, none) for each in (one, two)])
    ours = by_stack(unet, step, more, model=model, hint=hint)
    rows = [(each.expand(PICTURES, -1, -1), none.expand(PICTURES, -1, -1)) for each in (one, two)]
    assert_close(ours, by_diffusers(make(), state, step, more, kind, rows, 1.0))
    mean = by_stack(unet, step, more, model=model.bind({"pictures": "mean"}), hint=hint)
    assert relative_error(change(ours, unet, step, more), change(mean, unet, step, more)) > 50 * TOLERANCE


def test_a_mask_is_laid_on_every_layer(tmp_path: Path) -> None:
    """diffusers scales a mask by another filter, so its is of halves, which both leave as they are."""
    make, settings = UNETS["SD"]
    unet = make()
    state = file_of("plain", unet)
    model = load(state, tmp_path, settings)
    step, more = step_of(unet)
    seen, _ = seen_by("plain", count=1)
    whole = by_stack(unet, step, more, model=model, hint=seen)
    full = by_stack(unet, step, more, model=model, hint=seen, mask=torch.ones(1, 1, 128, 128))
    assert torch.equal(whole, full)
    half = torch.zeros(1, 1, 128, 128)
    half[..., :64] = 1
    found: dict[Any, Tensor] = {}
    with Patches():
        effects = ControlStack([ControlUnit(model=model, hint=seen, mask=half)])(step)
        for point, shift in effects.shifts.items():
            level = {1: 16, 4: 8, 7: 4}.get(point.index) if point.block is Block.INPUT else None
            if level:
                q = torch.randn(4, level * level, model._pairs[model.points.index(point)].to_k_ip.out_features)
                found[point] = shift(q).reshape(4, level, level, -1)
    assert len(found) == 3
    for added in found.values():
        side = added.shape[2] // 2
        assert added[:, :, :side].abs().min() > 0 and not added[:, :, side:].any()


def test_units_of_one_adapter_are_one_batch_and_add_up(tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    unet = make()
    model = load(file_of("plain", unet), tmp_path, settings)
    step, _ = step_of(unet)
    one, two = (ControlUnit(model=model, hint=seen_by("plain", 1, seed)[0], weight=w) for seed, w in ((1, 0.5), (2, 2)))
    effects = [ControlStack(units)(step).shifts for units in ([one, two], [one], [two])]
    for point in model.points:
        q = torch.randn(4, 16, dict(zip(model.points, model._pairs, strict=True))[point].to_k_ip.out_features)
        both, first, second = (each[point](q) for each in effects)
        assert_close(both, first + second)


def test_weight_types_count_layers_as_the_peer_does() -> None:
    points = points_of([320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280])
    order = sorted(factors("ease out", points).items(), key=lambda pair: pair[1])
    assert [(point.block, point.index) for point, _ in order[5:8]] == [
        (Block.INPUT, 8), (Block.MIDDLE, 0), (Block.OUTPUT, 3),
    ]  # fmt: skip
    assert order[0][1] == pytest.approx(0.05) and order[15][1] == pytest.approx(0.05 + 0.95 * 15 / 16)
    xl = points_of([640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10)
    style = {(p.block, p.index) for p, factor in factors("style transfer", xl).items() if factor}
    composition = {(p.block, p.index) for p, factor in factors("composition", xl).items() if factor}
    assert style == {(Block.OUTPUT, 1)} and composition == {(Block.INPUT, 8)}
    assert {round(each, 3) for each in factors("strong middle", points).values()} == {0.2, 1.0}


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
def test_a_weight_type_scales_what_each_layer_adds(kind: str, tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    model = load(file_of("plain", make()), tmp_path, settings)
    step, _ = step_of(make())
    hint = seen_by("plain")[0]
    plain = ControlStack([ControlUnit(model=model, hint=hint)])(step).shifts
    shaped = ControlStack([ControlUnit(model=model.bind({"weight_type": kind}), hint=hint)])(step).shifts
    for point, factor in factors(kind, model.points).items():
        assert (point in shaped) is bool(factor)
        if factor:
            q = torch.randn(4, 16, dict(zip(model.points, model._pairs, strict=True))[point].to_k_ip.out_features)
            assert torch.allclose(shaped[point](q), plain[point](q) * factor, rtol=1e-5, atol=1e-6)


def test_block_weights_are_one_for_each_transformer(tmp_path: Path) -> None:
    make, settings = UNETS["SDXL"]
    model = load(file_of("plain", make()), tmp_path, settings)
    assert (model.block_count, len(model.points)) == (11, 5 * 2 + 6 * 3)
    spread = model.spread(tuple(range(11)))
    inside, middle, outside = [0] * 2 + [1] * 2 + [2] * 3 + [3] * 3, [4] * 3, [5] * 3 + [6] * 3 + [7] * 3
    assert list(spread) == inside + middle + outside + [8] * 2 + [9] * 2 + [10] * 2
    with pytest.raises(ControlError, match="'adapter' has 11 blocks, got 3 block weights"):
        model.spread((1.0, 1.0, 1.0))


SD_WIDTHS = [320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320, 1280]
XL_WIDTHS = [640] * 4 + [1280] * 20 + [1280] * 30 + [640] * 6 + [1280] * 10
PUBLISHED: dict[str, tuple[dict[str, tuple[int, ...]], list[int], int, int, tuple[Encoder, Values], str]] = {
    # file -> projection, layers, context, parameters, what it reads, base
    "ip-adapter_sd15": (projection("plain", 1024, 768), SD_WIDTHS, 768, 22_319_616,
                        (Encoder.CLIP_H, Values.IMAGE), "SD 1.x"),
    "ip-adapter-plus_sd15": (resampler(1280, 768, 768, 3072, 768), SD_WIDTHS, 768, 49_087_488,
                             (Encoder.CLIP_H, Values.STATES), "SD 1.x"),
    "ip-adapter-full-face_sd15": (projection("full", 1280, 768), SD_WIDTHS, 768, 21_794_304,
                                  (Encoder.CLIP_H, Values.STATES), "SD 1.x"),
    "ip-adapter_sdxl": (projection("plain", 1280, 2048), XL_WIDTHS, 2048, 351_285_248,
                        (Encoder.CLIP_G, Values.IMAGE), "SDXL"),
    "ip-adapter_sdxl_vit-h": (projection("plain", 1024, 2048), XL_WIDTHS, 2048, 349_188_096,
                              (Encoder.CLIP_H, Values.IMAGE), "SDXL"),
    "ip-adapter-plus_sdxl_vit-h": (resampler(1280, 1280, 1280, 5120, 2048), XL_WIDTHS, 2048, 423_748_864,
                                   (Encoder.CLIP_H, Values.STATES), "SDXL"),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_told_by_their_names_and_shapes(name: str, tmp_path: Path) -> None:
    own, widths, context, parameters, reads, base = PUBLISHED[name]
    shapes = {**{f"image_proj.{key}": shape for key, shape in own.items()}, **layers(widths, context)}
    told = inspect(write_sparse(tmp_path / "any.safetensors", shapes))
    assert (told.family, told.base, told.parameters) == ("IP-Adapter", base, parameters)
    assert told.missing == told.misshapen == told.unexpected == ()
    model = FAMILY.outline(shapes)
    assert isinstance(model, IPAdapterModel) and model.embedding is not None
    assert (model.embedding.encoder, model.embedding.values) == reads
    assert len(model.points) == len(widths)
    assert all(point.part is Part.ATTN2_HEADS for point in model.points)


def test_another_encoder_and_another_base_are_refused_naming_both_sides(tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    model = load(file_of("plain", make()), tmp_path, settings)
    with pytest.raises(HintError, match=r"reads image embedding of an image encoder \[N, T, 48\], got \[1, 1, 1280\]"):
        ControlUnit(model=model, hint=torch.zeros(1, 1, 1280))
    xl = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=96, attention_head_dim=4,
    )  # fmt: skip
    assert base_of(xl).context == 96
    with pytest.raises(IncompatibleModelError, match=r"'adapter' was trained for .* 64.*, the loaded .* 96"):
        check_units([ControlUnit(model=model, hint=seen_by("plain", 1)[0])], xl)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"image_proj.proj.0.weight": (1024, 512), "image_proj.proj.2.weight": (3072, 1024)}, "FaceID"),
        ({f"image_proj.{key}": shape for key, shape in resampler(512, 64, 64, 256, 768).items()}, "InstantID"),
        ({f"image_proj.{key}": shape for key, shape in projection("plain", 1024, 768).items()}, "no base model"),
    ],
    ids=["FaceID", "InstantID", "layers of no base"],
)
def test_relatives_are_named_and_refused(more: dict[str, tuple[int, ...]], words: str, tmp_path: Path) -> None:
    shapes = {**more, **layers([320] * 5, 768)}
    path = write_sparse(tmp_path / "relative.safetensors", shapes)
    with pytest.raises(ModelError, match=words):
        load_control_model(path)


def test_the_settings_name_heads(tmp_path: Path) -> None:
    make, _ = UNETS["SD"]
    state = file_of("plain", make())
    with pytest.raises(ControlError, match="the context width is 64"):
        load(state, tmp_path, {})
    with pytest.raises(ControlError, match="has no 7 heads"):
        load(state, tmp_path, {"heads": 7})


def test_prefixes_of_other_programs_are_read(tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    state = {name.replace("ip_adapter.", "adapter_modules."): each for name, each in file_of("plain", make()).items()}
    assert isinstance(load(state, tmp_path, settings).network, nn.Module)
    assert identify.__module__.endswith("registry")
