"""Our networks against diffusers' classes, with the same random weights, in every layout of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import HintError
from controlstack.core.schedule import Schedule, progress_at
from controlstack.core.stack import ControlStack
from controlstack.core.step import Step
from controlstack.core.unit import ControlMode, ControlUnit
from controlstack.models.families.controlnet.model import ControlNetModel as Ours
from controlstack.models.families.t2i_adapter import AdapterModel, StyleAdapter
from controlstack.models.naming import to_diffusers, to_ldm
from controlstack.models.registry import load_control_model
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from oracle import assert_close, residuals_of, step_of
from torch import Tensor

Save = Callable[..., Path]
HEADS = {"heads": "4"}

LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "diffusers": dict,
    "ldm": to_ldm,
    "prefixed": lambda state: {f"control_model.{key}": value for key, value in to_ldm(state).items()},
    "full checkpoint": lambda state: {
        **{f"control_model.{key}": value for key, value in to_ldm(state).items()},
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(2),
        "first_stage_model.encoder.conv_in.weight": torch.ones(2),
    },
}


def _theirs(net: ControlNetModel, step: Step, hint: Tensor, more: dict[str, Any], **options: Any) -> list[Tensor]:
    skips, middle = net(step.x, step.timestep, step.context, hint, return_dict=False, **more, **options)
    return [*skips, middle]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_controlnet_in_every_layout(theirs: ControlNetModel, save: Save, layout: str) -> None:
    model = load_control_model(save(LAYOUTS[layout](theirs.state_dict())), settings=HEADS)
    step, more = step_of(theirs)
    hint = torch.rand(1, 3, 128, 128)
    for one, other in zip(residuals_of(model, step, hint), _theirs(theirs, step, hint, more), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("changes", [{"conditioning_channels": 4}, {"in_channels": 9}, {"layers_per_block": 1}])
def test_widths_come_from_the_shapes(theirs: ControlNetModel, save: Save, changes: dict[str, int]) -> None:
    config = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    other_one = ControlNetModel(**{**config, **changes}).eval().requires_grad_(False)
    for parameter in other_one.parameters():
        parameter.normal_(0, 0.05)
    model = load_control_model(save(other_one.state_dict()), settings=HEADS)
    step, more = step_of(theirs)
    wide = replace(step, x=torch.randn(4, changes.get("in_channels", 4), 16, 16))
    hint = torch.rand(1, changes.get("conditioning_channels", 3), 128, 128)
    for one, other in zip(residuals_of(model, wide, hint), _theirs(other_one, wide, hint, more), strict=True):
        assert_close(one, other)


def test_half_precision_files_load_as_they_are_or_as_asked(theirs: ControlNetModel, save: Save) -> None:
    path = save({key: value.half() for key, value in theirs.state_dict().items()})
    kept, wide = load_control_model(path, settings=HEADS), load_control_model(path, settings=HEADS, dtype=torch.float32)
    assert isinstance(kept, Ours)
    assert isinstance(wide, Ours)
    assert kept.dtype == torch.float16
    step, more = step_of(theirs)
    hint = torch.rand(1, 3, 128, 128)
    for one, other in zip(residuals_of(wide, step, hint), _theirs(theirs, step, hint, more), strict=True):
        assert (one - other).abs().max() <= 5e-3 * other.abs().max()


def test_global_average_pooling(theirs: ControlNetModel, save: Save) -> None:
    theirs = deepcopy(theirs)
    theirs.config.global_pool_conditions = True
    model = load_control_model(
        save(theirs.state_dict(), {"controlstack.global_average_pooling": "true"}), settings=HEADS
    )
    step, more = step_of(theirs)
    hint = torch.rand(1, 3, 128, 128)
    for one, other in zip(residuals_of(model, step, hint), _theirs(theirs, step, hint, more), strict=True):
        assert one[:2].abs().max() == 0  # pooled models act on the cond rows
        assert_close(one[2:], other[2:].mean((2, 3), keepdim=True).expand_as(one[2:]))


@pytest.mark.parametrize("mode", [ControlMode.PROMPT, ControlMode.CONTROL])
def test_modes_follow_their_formula(theirs: ControlNetModel, save: Save, mode: ControlMode) -> None:
    model = load_control_model(save(theirs.state_dict()), settings=HEADS)
    step, more = step_of(theirs)
    hint = torch.rand(1, 3, 128, 128)
    got = residuals_of(model, step, hint, mode=mode, weight=0.7)
    for i, (one, other) in enumerate(zip(got, _theirs(theirs, step, hint, more), strict=True)):
        expected = other * 0.7 * 0.825 ** (12 - i)
        if mode is ControlMode.CONTROL:
            expected[:2] = 0
        assert_close(one, expected)


def test_difference_files_are_added_to_their_base(
    theirs: ControlNetModel, unet: UNet2DConditionModel, save: Save
) -> None:
    whole, base = to_ldm(theirs.state_dict()), to_ldm(unet.state_dict())
    difference = {key: value - base[key] if key in base else value for key, value in whole.items()}
    path = save({**{f"control_model.{key}": value for key, value in difference.items()}, "difference": torch.ones(1)})
    model = load_control_model(path, settings=HEADS, base_state=base)
    step, more = step_of(theirs)
    hint = torch.rand(1, 3, 128, 128)
    for one, other in zip(residuals_of(model, step, hint), _theirs(theirs, step, hint, more), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.bfloat16])
def test_difference_files_are_added_to_a_base_in_few_bits(
    theirs: ControlNetModel, unet: UNet2DConditionModel, save: Save, stored: torch.dtype
) -> None:
    whole = to_ldm(theirs.state_dict())
    base = {key: value.to(stored) for key, value in to_ldm(unet.state_dict()).items()}
    difference = {key: value - base[key].float() if key in base else value for key, value in whole.items()}
    path = save({**{f"control_model.{key}": value for key, value in difference.items()}, "difference": torch.ones(1)})
    model = load_control_model(path, settings=HEADS, base_state=base)
    step, more = step_of(theirs)
    hint = torch.rand(1, 3, 128, 128)
    for one, other in zip(residuals_of(model, step, hint), _theirs(theirs, step, hint, more), strict=True):
        assert_close(one, other)


def test_the_rename_table_is_one_to_one(theirs: ControlNetModel, unet: UNet2DConditionModel) -> None:
    for network in (theirs, unet):
        state = network.state_dict()
        named = to_ldm(state)
        assert len(named) == len(state)
        assert not set(named) & set(state)
        assert list(to_diffusers(named)) == list(state)


def _original_adapter(state: Mapping[str, Tensor], light: bool) -> dict[str, Tensor]:
    """The names of the original repository, written down independently of the code under test."""
    import re

    named: dict[str, Tensor] = {}
    for key, value in state.items():
        bare = key.removeprefix("adapter.")
        if light:
            named[re.sub(r"\.resnets\.(\d+)\.", r".body.\1.", bare)] = value
        elif match := re.match(r"body\.(\d)\.resnets\.(\d)\.(.*)", bare):
            named[f"body.{2 * int(match[1]) + int(match[2])}.{match[3]}"] = value
        elif match := re.match(r"body\.(\d)\.in_conv\.(.*)", bare):
            named[f"body.{2 * int(match[1])}.in_conv.{match[2]}"] = value
        else:
            named[bare] = value
    return named


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_t2i_adapters(adapter: T2IAdapter, save: Save, layout: str) -> None:
    state = adapter.state_dict()
    if layout == "original":
        state = _original_adapter(state, adapter.config["adapter_type"] == "light_adapter")
    model = load_control_model(save(dict(state)))
    assert isinstance(model, AdapterModel)
    hint = torch.rand(2, 3, 128, 128)
    for one, other in zip(model.prepare(hint), adapter(hint), strict=True):
        assert_close(one, other)


def test_a_style_adapter_makes_tokens_that_depend_on_the_picture(save: Save) -> None:
    """Against the formula of the original, written with torch's own transformer layer."""
    torch.manual_seed(0)
    network = StyleAdapter(width=32, context=16, count=3, layers=2).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(0, 0.2)
    state = {name.replace("attn.in_proj.", "attn.in_proj_"): each for name, each in network.state_dict().items()}
    model = load_control_model(save(state))
    tokens = torch.randn(2, 5, 32)
    x = torch.cat([tokens, state["style_embedding"].expand(2, -1, -1)], 1)
    x = torch.nn.functional.layer_norm(x, (32,), state["ln_pre.weight"], state["ln_pre.bias"])
    for i in range(2):
        x = _clip_block(x, {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"transformer_layes.{i}.")})
    x = torch.nn.functional.layer_norm(x[:, -3:], (32,), state["ln_post.weight"], state["ln_post.bias"])
    assert_close(model.prepare(tokens)[0], x @ state["proj"])
    with pytest.raises(HintError, match="acts on the prompt, which has no place in the picture: leave its mask out"):
        ControlUnit(model=model, hint=tokens, mask=torch.ones(1, 1, 8, 8))
    assert not ControlUnit(model=model, hint=tokens, mask=torch.ones(1, 1, 8, 8), weight=0.0).acts


def test_tokens_of_a_style_are_the_same_whether_prompts_are_evaluated_together_or_apart(save: Save) -> None:
    """sd-webui-controlnet gives zeros to the negative prompt, which are tokens too: attention sees them."""
    torch.manual_seed(0)
    network = StyleAdapter(width=32, context=16, count=3, layers=2).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(0, 0.2)
    model = load_control_model(save(dict(network.state_dict())))
    zeros = torch.zeros(4)
    step = Step(
        x=torch.randn(4, 4, 8, 8),
        timestep=zeros,
        context=torch.randn(4, 7, 16),
        cond=(False, False, True, True),
        progress=progress_at(0, 1),
    )
    half, stack = (0, 1), ControlStack([ControlUnit(model=model, hint=torch.randn(1, 5, 32), weight=0.7)])
    (together,) = stack(step).tokens
    apart = [stack(step.rows(rows)).tokens[0] for rows in (half, (2, 3))]
    assert together is not None and not together[:2].any() and together[2:].any()
    assert torch.cat([each for each in apart if each is not None]).equal(together)
    late = ControlUnit(model=model, hint=torch.randn(1, 5, 32), schedule=Schedule(start=0.5))
    assert ControlStack([late])(step.rows(half)).tokens == ()


def _clip_block(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """x + MHA(LN(x)), x + W2 quickgelu(W1 LN(x)), with 8 heads, spelt out."""
    normed = torch.nn.functional.layer_norm(x, (32,), w["ln_1.weight"], w["ln_1.bias"])
    q, k, v = (normed @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"]).chunk(3, dim=-1)
    q, k, v = (t.unflatten(-1, (8, 4)).transpose(1, 2) for t in (q, k, v))
    mixed = ((q @ k.transpose(-1, -2)) / 2).softmax(-1) @ v
    x = x + mixed.transpose(1, 2).flatten(2) @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]
    normed = torch.nn.functional.layer_norm(x, (32,), w["ln_2.weight"], w["ln_2.bias"])
    h = normed @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]
    return x + (h * torch.sigmoid(1.702 * h)) @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]
