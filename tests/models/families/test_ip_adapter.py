"""IP-Adapters against diffusers' own loader, projections and attention processors, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import (
    KINDS,
    SD_WIDTHS,
    UNETS,
    XL_WIDTHS,
    by_diffusers,
    by_stack,
    change,
    file_of,
    hint_of,
    layers,
    load,
    projection,
    resampler,
    seen_by,
)
from controlstack.core.embedding import Encoder, Values
from controlstack.core.errors import ControlError, HintError, IncompatibleModelError, ModelError
from controlstack.core.network.attach import Patches
from controlstack.core.network.points import Block, Part
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.families.ip_adapter.family import FAMILY
from controlstack.models.families.ip_adapter.layers import WEIGHT_TYPES, factors, points_of
from controlstack.models.families.ip_adapter.model import IPAdapterModel
from controlstack.models.registry import identify, inspect, load_control_model
from controlstack.pipelines.attached import base_of, check_units
from diffusers import UNet2DConditionModel
from oracle import PICTURES, TOLERANCE, assert_close, relative_error, step_of
from sparse_files import write_sparse
from torch import Tensor, nn


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


def test_layers_of_no_base_are_refused(tmp_path: Path) -> None:
    shapes = {f"image_proj.{key}": shape for key, shape in projection("plain", 1024, 768).items()}
    path = write_sparse(tmp_path / "relative.safetensors", {**shapes, **layers([320] * 5, 768)})
    with pytest.raises(ModelError, match="no base model"):
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
