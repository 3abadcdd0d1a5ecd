"""IP-Adapters of the kind FaceID against diffusers' projections and processors, and their LoRA by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import (
    CONTEXT,
    SD_WIDTHS,
    UNETS,
    XL_WIDTHS,
    by_stack,
    change,
    layers,
    lent,
    load,
    nested,
    resampler,
    state_of,
    widths_of,
)
from controlstack.core.control import ControlModel
from controlstack.core.embedding import Embedding, Encoder, Values
from controlstack.core.errors import DamagedModelError, HintError, UnitError
from controlstack.core.unit import ControlUnit
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from oracle import PICTURES, TOLERANCE, assert_close, relative_error, step_of
from safetensors.torch import save_file
from sparse_files import Shapes, write_sparse
from torch import Tensor

FACE, SEEN, TOKENS, RANK = 48, 64, 4, 3  # numbers of a face, width of hidden states, tokens, of the LoRA
KINDS = ("face", "plus", "plusv2")
State = dict[str, Tensor]


def face_projection(width: int, context: int, tokens: int, hidden: int | None = None) -> Shapes:
    hidden = 2 * width if hidden is None else hidden
    return {
        "proj.0.weight": (hidden, width), "proj.0.bias": (hidden,), "proj.2.weight": (tokens * context, hidden),
        "proj.2.bias": (tokens * context,), "norm.weight": (context,), "norm.bias": (context,),
    }  # fmt: skip


def asking(seen: int, context: int) -> Shapes:
    own = resampler(seen, context, context, 4 * context, context)
    return {f"perceiver_resampler.{name}": shape for name, shape in own.items() if name != "latents"}


def lora(widths: list[int], context: int, rank: int) -> Shapes:
    """By the published names: processors of self- and cross-attention in turn."""
    found: Shapes = {}
    for number, (width, reads) in enumerate((each, reads) for each in widths for reads in (each, context)):
        for part in ("to_q", "to_k", "to_v", "to_out"):
            enters = reads if part in ("to_k", "to_v") else width
            found[f"ip_adapter.{number}.{part}_lora.down.weight"] = (rank, enters)
            found[f"ip_adapter.{number}.{part}_lora.up.weight"] = (width, rank)
    return found


def file_of(kind: str, unet: Any, with_lora: bool) -> State:
    own = face_projection(FACE, CONTEXT, TOKENS) | ({} if kind == "face" else asking(SEEN, CONTEXT))
    shapes = {f"image_proj.{name}": shape for name, shape in own.items()} | layers(widths_of(unet), CONTEXT)
    state = state_of(shapes | (lora(widths_of(unet), CONTEXT, RANK) if with_lora else {}))
    return {name: each * (4 if "_ip." in name else 0.5 if "_lora." in name else 1) for name, each in state.items()}


def seen_by(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers of faces [N, 1, 48], and hidden states [N, 7, 64] of the pictures and of a grey one."""
    generator = torch.Generator().manual_seed(3)
    face = torch.randn(PICTURES, 1, FACE, generator=generator)
    states, grey = (torch.randn(PICTURES, 7, SEEN, generator=generator) for _ in range(2))
    return face, states, grey[:1].expand(PICTURES, -1, -1)


def hint_of(kind: str, face: Tensor, states: Tensor, grey: Tensor) -> Tensor:
    if kind == "face":
        return face
    first = torch.zeros(len(face), 1, 2 * SEEN)
    first[..., :FACE] = face
    return torch.cat([first, torch.cat([states, grey], dim=-1)], dim=1)


def fold(unet: Any, state: State, strength: float = 1.0) -> None:
    """Add the file's LoRA to the base's weights, by the order of diffusers' processors."""
    for number, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_q", "to_k", "to_v", "to_out"):
            layer = attention.to_out[0] if part == "to_out" else getattr(attention, part)
            stem = f"ip_adapter.{number}.{part}_lora"
            layer.weight.data += strength * state[f"{stem}.up.weight"] @ state[f"{stem}.down.weight"]


def by_diffusers(
    unet: Any, state: State, step: Any, more: dict[str, Any], kind: str, weight: float, structure: float = 1.0
) -> Tensor:
    """Change the U-Net, and return its answer."""
    face, states, grey = seen_by(kind)
    unet._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [weight]
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    if kind != "face":
        projection.clip_embeds = torch.cat([grey, states])[:, None]
        projection.shortcut, projection.shortcut_scale = kind == "plusv2", structure
    added = {**more.get("added_cond_kwargs", {}), "image_embeds": [torch.cat([torch.zeros_like(face), face])]}
    with torch.no_grad():
        return unet(step.x, step.timestep, step.context, added_cond_kwargs=added).sample


def loaded(state: State, kind: str, folder: Path, settings: dict[str, int], pickled: bool = False) -> ControlModel:
    return load(state, folder, {**settings, "beside": kind == "plusv2"}, pickled)


@pytest.mark.parametrize("with_lora", [False, True], ids=["portrait", "with LoRA"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", UNETS)
def test_it_does_what_diffusers_does(base: str, kind: str, with_lora: bool, tmp_path: Path) -> None:
    make, settings = UNETS[base]
    unet = make()
    state = file_of(kind, unet, with_lora)
    model = loaded(state, kind, tmp_path, settings, pickled=with_lora)
    step, more = step_of(unet)
    before = [parameter.clone() for parameter in unet.parameters()]
    ours = by_stack(unet, step, more, model=model, hint=hint_of(kind, *seen_by(kind)), weight=0.7)
    assert all(torch.equal(*pair) for pair in zip(before, unet.parameters(), strict=True))
    with lent(unet):
        if with_lora:
            fold(unet, state)
        theirs = by_diffusers(unet, state, step, more, kind, 0.7)
    assert_close(ours, theirs)
    assert relative_error(change(ours, unet, step, more), change(theirs, unet, step, more)) < 1e-3
    assert (model.delta is not None) is with_lora
    without = by_stack(unet, step, more, model=model, hint=hint_of(kind, *seen_by(kind)), weight=0.7, delta_strength=0)
    assert (relative_error(ours, without) > 50 * TOLERANCE) is with_lora


def test_the_face_structure_is_a_factor_of_plusv2_alone(tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    unet = make()
    state = file_of("plusv2", unet, False)
    model = loaded(state, "plusv2", tmp_path, settings)
    step, more = step_of(unet)
    hint = hint_of("plusv2", *seen_by("plusv2"))
    ours = by_stack(unet, step, more, model=model.bind({"structure": 0.4}), hint=hint)
    with lent(unet):
        assert_close(ours, by_diffusers(unet, state, step, more, "plusv2", 1.0, structure=0.4))
    assert relative_error(ours, by_stack(unet, step, more, model=model, hint=hint)) > 50 * TOLERANCE
    with pytest.raises(UnitError, match="'adapter' has no option 'structure'"):
        loaded(state, "plus", tmp_path, settings).bind({"structure": 0.4})


@pytest.mark.parametrize(
    ("name", "beside", "warns"),
    [("ip-adapter-faceid-plusv2_sd15", True, False), ("ip-adapter-faceid-plus_sd15", False, False), ("my", True, True)],
)
def test_the_name_tells_plus_from_plusv2(
    name: str, beside: bool, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, settings = UNETS["SD"]
    save_file(file_of("plus", make(), False), tmp_path / f"{name}.safetensors")
    model = load_control_model(tmp_path / f"{name}.safetensors", settings=settings)
    assert model.beside is beside  # type: ignore[attr-defined]
    assert bool(caplog.records) is warns


def plus(context: int) -> Shapes:
    return {**face_projection(512, context, 4), **asking(1280, context)}


PUBLISHED: dict[str, tuple[Shapes, list[int], int, bool, int, Values]] = {
    # file -> projection, layers, context, whether it holds a LoRA, parameters, what it reads. The files are published
    # in fp16, of 97, 157, 65, 1070 and 1490 MB.
    "ip-adapter-faceid_sd15": (face_projection(512, 768, 4), SD_WIDTHS, 768, True, 48_354_816, Values.FACE),
    "ip-adapter-faceid-plusv2_sd15": (plus(768), SD_WIDTHS, 768, True, 78_260_736, Values.FACE_STATES),
    "ip-adapter-faceid-portrait_sd15": (
        face_projection(512, 768, 16), SD_WIDTHS, 768, False, 32_291_328, Values.FACE),
    "ip-adapter-faceid_sdxl": (face_projection(512, 2048, 4), XL_WIDTHS, 2048, True, 535_507_968, Values.FACE),
    "ip-adapter-faceid-plusv2_sdxl": (plus(2048), XL_WIDTHS, 2048, True, 743_707_648, Values.FACE_STATES),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_told_by_their_names_and_shapes(name: str, tmp_path: Path) -> None:
    own, widths, context, has_lora, parameters, values = PUBLISHED[name]
    shapes = {**{f"image_proj.{key}": shape for key, shape in own.items()}, **layers(widths, context)}
    shapes |= lora(widths, context, 128) if has_lora else {}
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["face-id"]
    told = inspect(write_sparse(tmp_path / "any.safetensors", shapes))
    assert (told.family, told.parameters) == ("IP-Adapter FaceID", parameters)
    assert told.base == ("SD 1.x" if context == 768 else "SDXL")
    assert told.missing == told.misshapen == told.unexpected == ()
    family = next(family for family in REGISTRY if family.id == "face-id")
    model = family.outline(shapes)
    assert model.embedding == Embedding(Encoder.BUFFALO, values)
    assert model.hint_channels == (2 * 1280 if values is Values.FACE_STATES else 512)


def test_raw_faces_are_a_setting(tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    state = file_of("face", make(), False)
    model = load(state, tmp_path, {**settings, "normalised": False})
    assert model.embedding == Embedding(Encoder.BUFFALO, Values.RAW_FACE)


def test_a_lora_that_lacks_a_part_is_damaged(tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    state = file_of("face", make(), True)
    del state["ip_adapter.6.to_out_lora.up.weight"]
    with pytest.raises(DamagedModelError, match=r"lacks 1 weights, such as ip_adapter.6.to_out_lora.up.weight"):
        load(state, tmp_path, settings)
    state = file_of("face", make(), True)
    state["ip_adapter.6.to_out_lora.up.weight"] = torch.ones(7, RANK)
    with pytest.raises(DamagedModelError, match=r"ip_adapter.6.to_out_lora.up.weight is \[7, 3\], expected \[64, 3\]"):
        load(state, tmp_path, settings)


@pytest.mark.parametrize("name", ["proj_in.weight", "layers.0.0.to_q.weight", "norm_out.weight"])
def test_a_resampler_that_lacks_a_part_is_damaged(name: str, tmp_path: Path) -> None:
    """None loads as an adapter without a resampler."""
    make, settings = UNETS["SD"]
    state = file_of("plusv2", make(), False)
    del state[f"image_proj.perceiver_resampler.{name}"]
    with pytest.raises(DamagedModelError, match=f"lacks .*{name}"):
        load(state, tmp_path, settings)


def test_what_another_encoder_saw_is_refused(tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    model = load(file_of("face", make(), False), tmp_path, settings)
    with pytest.raises(HintError, match=r"face embedding of InsightFace buffalo_l \[N, T, 48\], got \[1, 1, 1024"):
        ControlUnit(model=model, hint=torch.zeros(1, 1, 1024))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_in_half_precision(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    make, settings = UNETS["SD"]
    state = file_of(kind, make(), True)
    save_file(state, tmp_path / "adapter.safetensors")
    given = {**settings, "beside": kind == "plusv2"}
    whole, half = (
        load_control_model(tmp_path / "adapter.safetensors", settings=given, dtype=each) for each in (None, dtype)
    )
    hint = hint_of(kind, *seen_by(kind))
    for ours, theirs in zip(half.prepare(hint), whole.prepare(hint), strict=True):
        assert ours.dtype == dtype
        assert relative_error(ours.float(), theirs) < 0.05
