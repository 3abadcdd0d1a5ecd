"""InstantID: its adapter and its ControlNet against diffusers' processors and ControlNet, in one stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import UNETS, XL_WIDTHS, by_stack, layers, lent, load, nested, resampler, state_of, widths_of
from controlstack.core.control import ControlModel
from controlstack.core.embedding import Embedding, Encoder, Values
from controlstack.core.errors import UnitError
from controlstack.core.network.base import SDXL_CONTEXT
from controlstack.core.stack import ControlStack
from controlstack.core.unit import ControlUnit
from controlstack.models.registry import REGISTRY, inspect, load_control_model
from controlstack.units.make import make
from controlstack.units.request import UnitRequest
from diffusers import ControlNetModel
from oracle import PICTURES, TOLERANCE, assert_close, randomise, relative_error, residuals_of, step_of
from safetensors.torch import save_file
from sparse_files import write_sparse
from torch import Tensor

FACE, TOKENS, WIDTH = 512, 5, 64


def adapter_file(widths: list[int], context: int) -> dict[str, Tensor]:
    own = {f"image_proj.{key}": shape for key, shape in resampler(FACE, WIDTH, 64, 4 * WIDTH, context, TOKENS).items()}
    state = state_of({**own, **layers(widths, context)})
    return {name: each * (4 if name.startswith("ip_adapter") else 1) for name, each in state.items()}


def faces(count: int = PICTURES) -> Tensor:
    return 20 * torch.randn(count, 1, FACE, generator=torch.Generator().manual_seed(3))


def oracle_tokens(unet: Any, face: Tensor) -> tuple[Tensor, Tensor]:
    """Return diffusers' tokens [N, T, D] of faces and of none."""
    (projection,) = unet.encoder_hid_proj.image_projection_layers
    with torch.no_grad():
        return projection(face), projection(torch.zeros_like(face))


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("base", UNETS)
def test_the_adapter_does_what_diffusers_does(base: str, pickled: bool, tmp_path: Path) -> None:
    create, settings = UNETS[base]
    unet = create()
    state = adapter_file(widths_of(unet), 64)
    model = load(state, tmp_path, settings, pickled)
    step, more = step_of(unet)
    ours = by_stack(unet, step, more, model=model, hint=faces(), weight=0.8)
    embeds = torch.cat([torch.zeros_like(faces()), faces()])[:, None]
    added = {**more.get("added_cond_kwargs", {}), "image_embeds": [embeds]}
    with lent(unet), torch.no_grad():
        unet._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
        for processor in unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = [0.8]
        assert_close(ours, unet(step.x, step.timestep, step.context, added_cond_kwargs=added).sample)
        theirs = oracle_tokens(unet, faces())
    seen, none = model.tokens(faces())
    assert_close(seen, theirs[0])
    assert_close(none, theirs[1])


def controlnet() -> ControlNetModel:
    return randomise(ControlNetModel(
        block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=SDXL_CONTEXT, attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), use_linear_projection=True, norm_num_groups=32,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
    ))  # fmt: skip


def pair(folder: Path) -> tuple[ControlModel, ControlModel, ControlNetModel]:
    """Return the adapter, the ControlNet, and diffusers' ControlNet."""
    theirs = controlnet()
    save_file(theirs.state_dict(), folder / "control.safetensors")
    save_file(adapter_file([32] * 16, SDXL_CONTEXT), folder / "adapter.safetensors")
    adapter = load_control_model(folder / "adapter.safetensors", settings={"heads": 4})
    control = load_control_model(folder / "control.safetensors", settings={"head_channels": 16})
    return adapter, control, theirs


def units(adapter: ControlModel, control: ControlModel, count: int = PICTURES, **more: Any) -> list[ControlUnit]:
    hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(5))
    return [ControlUnit(model=control, hint=hint), ControlUnit(model=adapter, hint=faces(count), **more)]


def told(control: ControlModel) -> ControlModel:
    """As the preprocessor of a unit tells it."""
    request = UnitRequest(preprocessor="instant_id_face_keypoints")
    return make(request, torch.zeros(1, 3, 64, 64), control).model


@pytest.mark.parametrize("count", [1, PICTURES])
def test_its_controlnet_reads_the_tokens_in_place_of_the_prompt(count: int, tmp_path: Path) -> None:
    adapter, control, theirs = pair(tmp_path)
    step, more = step_of(theirs)
    both = units(adapter, told(control), count, weight=0.0)  # which gives tokens and does nothing else
    effects = ControlStack(both)(step)
    ours = [*effects.output, *effects.middle]
    seen, none = adapter.tokens(faces(count))
    context = torch.cat([each.expand(PICTURES, -1, -1) for each in (none, seen)])
    with torch.no_grad():
        down, middle = theirs(
            step.x, step.timestep, context, both[0].hint.expand(len(step.x), -1, -1, -1), return_dict=False, **more
        )
    for one, other in zip(ours, (*down, middle), strict=True):
        assert_close(one, other)
    by_prompt = residuals_of(control, step, both[0].hint)
    assert relative_error(ours[-1], by_prompt[-1]) > 50 * TOLERANCE
    assert not effects.shifts


def test_tokens_are_projected_once_for_a_run(tmp_path: Path) -> None:
    adapter, control, theirs = pair(tmp_path)
    step, _ = step_of(theirs)
    calls: list[int] = []
    adapter.network.image_proj.register_forward_hook(lambda *_: calls.append(1))
    stack = ControlStack(units(adapter, told(control), weight=0.0))
    first, second = stack(step), stack(step)
    assert len(calls) == 2  # a face's, and none's
    assert all(torch.equal(*each) for each in zip(first.output, second.output, strict=True))


def test_a_controlnet_without_the_adapter_is_refused(tmp_path: Path) -> None:
    adapter, control, _ = pair(tmp_path)
    control_unit, adapter_unit = units(adapter, told(control))
    with pytest.raises(UnitError, match=r"'control' reads the tokens of a face .* add a unit with the adapter"):
        ControlStack([control_unit])
    ControlStack([adapter_unit])  # which alone is fine
    plain = control.bind({"context": "prompt"})
    ControlStack([ControlUnit(model=plain, hint=control_unit.hint)])
    narrow = load(adapter_file([32] * 16, 64), tmp_path, {"heads": 4})
    with pytest.raises(UnitError, match=r"reads tokens 2048 wide .* gives some 64 wide"):
        ControlStack([control_unit, ControlUnit(model=narrow, hint=faces())])


def test_only_controlnets_for_sdxl_have_the_option(tmp_path: Path) -> None:
    _, control, _ = pair(tmp_path)
    assert [each.name for each in control.offers] == ["context"]
    with pytest.raises(UnitError, match="context is 'cat', expected one of prompt, face"):
        control.bind({"context": "cat"})
    assert control.bind({"context": "face"}).reads_tokens and not control.reads_tokens


def test_the_published_file_is_told_by_its_names_and_shapes(tmp_path: Path) -> None:
    own = {f"image_proj.{key}": shape for key, shape in resampler(512, 1280, 1280, 5120, 2048).items()}
    shapes = {**own, **layers(XL_WIDTHS, 2048)}
    assert [family.id for family in REGISTRY if family.detect(shapes)] == ["instant-id"]
    told = inspect(write_sparse(tmp_path / "ip-adapter.safetensors", shapes))
    assert (told.family, told.base, told.parameters) == ("InstantID", "SDXL", 422_765_824)
    assert told.missing == told.misshapen == told.unexpected == ()
    model = next(family for family in REGISTRY if family.id == "instant-id").outline(shapes)
    assert model.embedding == Embedding(Encoder.ANTELOPE, Values.RAW_FACE) and model.gives_tokens
