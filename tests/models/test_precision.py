"""Number formats: 8-bit floats and scaled files are read right, others are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controlstack.core.errors import DamagedModelError, UnsupportedModelError
from controlstack.models.registry import inspect, load_control_model
from diffusers import ControlNetModel
from torch import Tensor

Save = Callable[..., Path]
HEADS = {"heads": "4"}
EIGHT_BITS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


@pytest.fixture
def kind() -> str:
    return "SD"  # one network is enough for these


def _weights(path: Path, **options: Any) -> dict[str, Tensor]:
    model: Any = load_control_model(path, settings=HEADS, **options)
    return model.network.state_dict()


def _ldm(theirs: ControlNetModel) -> dict[str, Tensor]:
    from controlstack.models.naming import to_ldm

    return to_ldm(theirs.state_dict())


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
@pytest.mark.parametrize("wanted", [None, torch.float16], ids=str)
def test_plain_8_bit_floats_keep_their_values(
    theirs: ControlNetModel, save: Save, dtype: torch.dtype, wanted: torch.dtype | None
) -> None:
    stored = {name: each.to(dtype) for name, each in _ldm(theirs).items()}
    assert inspect(save(stored), HEADS).missing == ()
    loaded = _weights(save(stored), dtype=wanted)
    for name, each in loaded.items():
        assert each.dtype == (wanted or torch.float32)
        assert each.float().equal(stored[name].float())


def test_a_mixed_file_is_of_one_type_when_it_is_loaded(theirs: ControlNetModel, save: Save) -> None:
    state = _ldm(theirs)
    types = [torch.float8_e4m3fn, torch.bfloat16, torch.float16]
    mixed = {name: each.to(types[i % 3]) for i, (name, each) in enumerate(state.items())}
    loaded = _weights(save(mixed))
    assert {each.dtype for each in loaded.values()} == {torch.float32}
    assert all(each.equal(mixed[name].float()) for name, each in loaded.items())


def test_values_that_are_not_finite_are_found_in_8_bits(theirs: ControlNetModel, save: Save) -> None:
    stored = {name: each.to(torch.float8_e4m3fn) for name, each in _ldm(theirs).items()}
    stored["time_embed.0.weight"] = torch.full((128, 32), float("nan")).to(torch.float8_e4m3fn)
    with pytest.raises(DamagedModelError, match=r"NaN.*time_embed\.0\.weight"):
        _weights(save(stored))


@pytest.mark.parametrize("shape", [(), (1,), "rows"], ids=["number", "one", "a row each"])
@pytest.mark.parametrize("wanted", [None, torch.bfloat16], ids=str)
def test_scaled_weights_are_multiplied_by_their_scale(
    theirs: ControlNetModel, save: Save, shape: Any, wanted: torch.dtype | None
) -> None:
    state = _ldm(theirs)
    stored: dict[str, Tensor] = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    expected: dict[str, Tensor] = {}
    for name, each in state.items():
        if each.ndim < 2:
            stored[name] = expected[name] = each.half()
            continue
        scale = torch.rand(len(each) if shape == "rows" else shape) * 0.01
        rows = scale.reshape(-1, *[1] * (each.ndim - 1))
        stored[name] = (each / rows / 1000).to(torch.float8_e4m3fn)
        stored[name[: -len("weight")] + "scale_weight"] = scale
        expected[name] = stored[name].float() * rows
    told = inspect(save(stored), HEADS)
    assert (told.missing, told.misshapen, told.unexpected) == ((), (), ())
    for name, each in _weights(save(stored), dtype=wanted).items():
        torch.testing.assert_close(each.float(), expected[name].to(wanted or torch.float32).float(), rtol=0, atol=0)


def test_a_scale_that_fits_nothing_is_damage(theirs: ControlNetModel, save: Save) -> None:
    state = _ldm(theirs)
    with pytest.raises(DamagedModelError, match=r"nowhere\.weight"):
        _weights(save({**state, "nowhere.scale_weight": torch.ones(())}))
    with pytest.raises(DamagedModelError, match="3 scales"):
        _weights(save({**state, "time_embed.0.scale_weight": torch.ones(3)}))


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        ("time_embed.0.weight_scale", None),
        ("time_embed.0.comfy_quant", None),
        ("time_embed.0.weight_scale_2", None),
        ("time_embed.0.pre_quant_scale", None),
        ("time_embed.0.weight.absmax", None),
        ("harmless", {"_quantization_metadata": "{}"}),
    ],
)
def test_quantised_files_are_refused_by_their_mark(
    theirs: ControlNetModel, save: Save, name: str, metadata: dict[str, str] | None
) -> None:
    path = save({**_ldm(theirs), name: torch.ones(1)}, metadata)
    for use in (inspect, load_control_model):
        with pytest.raises(UnsupportedModelError, match="quantised") as caught:
            use(path, settings=HEADS)
        assert (next(iter(metadata)) if metadata else name) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8, torch.uint8, torch.int64, torch.bool], ids=str)
def test_weights_that_are_no_plain_numbers_are_refused(theirs: ControlNetModel, save: Save, dtype: torch.dtype) -> None:
    state = _ldm(theirs)
    path = save({**state, "time_embed.0.weight": state["time_embed.0.weight"].to(dtype)})
    for use in (inspect, load_control_model):
        with pytest.raises(UnsupportedModelError, match=r"time_embed\.0\.weight"):
            use(path, settings=HEADS)


@pytest.mark.parametrize(
    "name",
    ["time_embed.0.alpha", "input_blocks.1.0.in_layers.2.lora_up.weight", "time_embed.0.weight_g", "a.dora_scale"],
)
def test_weights_that_change_others_are_refused(theirs: ControlNetModel, save: Save, name: str) -> None:
    path = save({**_ldm(theirs), name: torch.ones(3)})
    for use in (inspect, load_control_model):
        with pytest.raises(UnsupportedModelError, match="changes the weights beside it"):
            use(path, settings=HEADS)


def test_a_bias_that_the_network_has_not_is_refused(theirs: ControlNetModel, save: Save) -> None:
    name = next(name for name in _ldm(theirs) if name.endswith("attn2.to_q.weight"))
    path = save({**_ldm(theirs), name.replace("weight", "bias"): torch.ones(64)})
    with pytest.raises(UnsupportedModelError, match=r"to_q\.bias"):
        load_control_model(path, settings=HEADS)


def test_harmless_weights_are_left_out(theirs: ControlNetModel, save: Save) -> None:
    state = _ldm(theirs)
    extra = {"step": torch.tensor(3), "position_ids": torch.arange(3), "something.else": torch.ones(3)}
    assert sorted(inspect(save({**state, **extra}), HEADS).unexpected) == sorted(extra)
    assert _weights(save({**state, **extra})).keys() == state.keys()
